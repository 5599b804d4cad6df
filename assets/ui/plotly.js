// Plotly is large, so it is loaded when it is first needed.

let plotlyLoading = null;

function loadPlotly(source) {
  plotlyLoading ??= new Promise((done, failed) => {
    if (window.Plotly) { done(); return; }
    const script = document.createElement('script');
    script.src = new URL(source, document.baseURI).href;
    script.onload = done;
    script.onerror = () => { plotlyLoading = null; failed(new Error('The chart library could not be loaded.')); };
    document.head.append(script);
  });
  return plotlyLoading;
}

/** What every plot has: the page's colours and font, and images in both formats. */
function plotLook(node, title) {
  const css = getComputedStyle(node), colour = name => css.getPropertyValue(name).trim();
  return {
    colour,
    layout: {  // Plotly would take its buttons' colours from the paper, which is transparent here
      modebar: {bgcolor: 'rgba(0,0,0,0)', color: colour('--mpd-soft'), activecolor: colour('--mpd-text')},
      paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', font: {family: css.fontFamily, size: 13, color: css.color},
    },
    config: {
      responsive: true, displaylogo: false, toImageButtonOptions: {format: 'svg', filename: title},
      modeBarButtonsToRemove: ['select2d', 'lasso2d', 'sendChartToCloud'],  // a visitor's text goes to nobody else
      modeBarButtonsToAdd: [{name: 'Save as PNG', title: 'Save as PNG', icon: window.Plotly.Icons.disk,
        click: plot => window.Plotly.downloadImage(plot, {format: 'png', scale: 2, filename: title})}],
    },
  };
}
