// A reply's markdown as elements: headings, lists, code, emphasis. Links and images stay text, and
// everything goes through textContent, so that a model cannot make the page do or load anything.

const INLINE = /(`+)([\s\S]+?)\1|\*\*([\s\S]+?)\*\*|__([\s\S]+?)__|\*(\S(?:[^*\n]*\S)?)\*|(?<![\p{L}\p{N}_])_(\S(?:[^_\n]*\S)?)_(?![\p{L}\p{N}_])/u;

function inline(node, text) {
  for (let rest = text, depth = 0; rest !== ''; depth++) {
    const found = depth < 5000 ? INLINE.exec(rest) : null;
    if (!found) { node.append(rest); return; }
    node.append(rest.slice(0, found.index));
    const [whole, , code, strong, strong2, soft, soft2] = found;
    if (code !== undefined) node.append(make('code', '', code));
    else {
      const part = make(strong ?? strong2 ? 'strong' : 'em');
      inline(part, strong ?? strong2 ?? soft ?? soft2);
      node.append(part);
    }
    rest = rest.slice(found.index + whole.length);
  }
}

function renderMarkdown(node, text) {
  node.replaceChildren();
  const lines = text.split('\n');
  let list = null, paragraph = null;
  const block = (tag, content) => {
    const made = make(tag);
    made.dir = 'auto';
    inline(made, content);
    return made;
  };
  const close = () => { list = null; paragraph = null; };
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i], fence = /^ {0,3}(```|~~~)/.exec(line);
    const heading = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/.exec(line), item = /^\s*(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/.exec(line);
    if (fence) {
      const end = lines.findIndex((later, k) => k > i && later.trim().startsWith(fence[1]));
      const last = end < 0 ? lines.length : end, pre = make('pre');
      pre.append(make('code', '', lines.slice(i + 1, last).join('\n')));
      node.append(pre);
      close();
      i = last;
    } else if (heading) {
      node.append(block(`h${Math.min(6, heading[1].length + 2)}`, heading[2]));
      close();
    } else if (item) {
      const tag = item[1] ? 'ul' : 'ol';
      if (list?.localName !== tag) {
        list = make(tag);
        if (item[2]) list.start = Number(item[2]);
        node.append(list);
      }
      list.append(block('li', item[3]));
      paragraph = null;
    } else if (line.trim() === '') close();
    else if (paragraph) { paragraph.append('\n'); inline(paragraph, line); }
    else if (list && /^\s/.test(line)) { list.lastChild.append('\n'); inline(list.lastChild, line.trim()); }
    else { list = null; paragraph = block('p', line); node.append(paragraph); }
  }
}
