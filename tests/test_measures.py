"""The judge of text measures: what it sees in written answers, in odd replies, in other packs."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from mpd_core.cli import main
from mpd_core.errors import MPDError, PackError
from mpd_core.evaluation import scales
from mpd_core.evaluation.cues import CUES, MOST_WORDS, settled
from mpd_core.evaluation.identified import identify, shares_of
from mpd_core.evaluation.judging import Question
from mpd_core.evaluation.measures import MeasuresJudge, TextJudge, measures_of, unanswered
from mpd_core.evaluation.remarks import KINDS
from mpd_core.evaluation.topic import Topic
from mpd_core.evaluation.written import calibrate, in_common, one_letter_apart, validation
from mpd_core.method.preferences import Dimension, Pole, PreferenceSpace
from mpd_core.packs import load_pack
from mpd_core.training.data import Split, Styled, load_styles
from mpd_core.training.measures import words
from mpd_core.training.recipe import load_recipe
from tests.fresh_python import in_python
from tests.training_fixtures import write_training_pack

PACK = load_pack(None)
SIMPLE = "The sun is hot. It warms the land. The sea is slow to get warm, so wind blows in. "
SCHOLARLY = (
    "Differential insolation establishes horizontal pressure gradients between terrestrial and "
    "oceanic surfaces, whose disparate heat capacities engender mesoscale thermal circulations. "
)
LONG = """Land and water warm at different rates. During the day the sun heats the ground quickly,
because soil stores little heat below its surface, while the sea spreads the same energy over a
deeper layer and changes slowly. Air above the warm coast expands and rises, which lowers the
pressure there. Cooler, heavier air from over the water then moves in to replace it, and people on
the beach feel a breeze. After sunset the process turns around: the ground cools first, the sea
keeps its warmth, and a lighter wind blows from the shore towards the open water. Sailors, pilots
and forecasters use this daily pattern, which is strongest in spring and early summer, when the
difference between both temperatures is largest."""
KIND = "Ooh, lovely question! Let's grab a snack, my friend, and peek at it together. Yay! 🎉"
CURT = "It is not hard. You could have looked it up. Stop wasting time with obvious questions."


@pytest.fixture(scope="module")
def judge() -> TextJudge:
    return TextJudge.of(PACK)


def space_of(*dimensions: tuple[str, ...]) -> PreferenceSpace:
    return PreferenceSpace(
        tuple(
            Dimension(f"d{n}", tuple(Pole(name, f"Be {name}.") for name in names))
            for n, names in enumerate(dimensions)
        )
    )


def test_each_scale_names_the_pole_that_a_plain_example_shows(judge: TextJudge) -> None:
    """And a text that shows no tone, or is of middling length, shows neither."""
    assert judge("", SIMPLE)["expertise"] == "elementary"
    assert judge("", SCHOLARLY)["expertise"] == "knowledgeable"
    assert judge("", KIND)["tone"] == "friendly"
    assert judge("", CURT)["tone"] == "unfriendly"
    assert judge("", SIMPLE)["length"] == "concise"
    assert judge("", LONG)["length"] == "informative"
    assert judge("", " ".join(LONG.split()[:65]))["length"] is None
    assert judge("", " ".join(LONG.split()[:65]))["tone"] is None


@pytest.mark.parametrize(
    "text",
    [
        "It is a liquid. It is not a gas. It is cold. It is hard. It is not soft.",
        "Plant a flower. It is not a garden. It is a flower. It will grow.",
        "Water is dense when it gets cold, and it floats. It does not sink. That is the reason.",
        "A pollinator garden is a garden that grows flowers, shrubs, and trees.",
    ],
)
def test_plain_statements_and_denials_show_no_tone(judge: TextJudge, text: str) -> None:
    """A small model says such things in earnest; a reader finds neither warmth nor a snub."""
    assert judge("", text)["tone"] is None


MARKS = ("!!!", "🎉", ":-)", "❤️ !", " 😊😊😊 XD <3")


@pytest.mark.parametrize("mark", MARKS)
def test_marks_of_excitement_say_nothing(judge: TextJudge, mark: str) -> None:
    """Exclamation marks and emoji at every sentence of any written answer: the tone stays what it
    was, in every style; so no neutral answer turns friendly by them."""
    styles = load_styles(PACK.path(load_recipe(PACK).data.file))
    texts = [text for row in styles.split("valid")[:6] for text in row.answers.values()]
    for text in texts:
        excited = re.sub(r"[.!](?=\s|$)", lambda end, mark=mark: f"{end.group()}{mark}", text)  # type: ignore[misc]
        assert judge("", f"{excited} {mark}") == judge("", text)
        assert (
            judge("", text.replace(".", "!"))["tone"] == judge("", text.replace("!", "."))["tone"]
        )


@pytest.mark.parametrize(
    ("start", "end", "tone", "least"),
    [
        ("Seriously?", "Don't ask me again.", "unfriendly", 0.45),
        ("Oh, brilliant, you again.", "Now leave me alone, will you.", "unfriendly", 0.7),
        ("You had to bother me for that?", "Any fool knows it.", "unfriendly", 0.9),
        ("Must you pester me?", "Off you go, and think for once.", "unfriendly", 0.7),
        ("Hey friend, good question!", "You've got this!", "friendly", 0.5),
        ("Hi there, I am so happy you asked.", "Have fun with it, my friend.", "friendly", 0.7),
        ("Ooh, what a lovely thing to ask, pal.", "I'm rooting for you.", "friendly", 0.9),
        ("Oh, how nice to meet you!", "Cheers, and give your dog a kiss.", "friendly", 0.5),
    ],
)
def test_remarks_at_its_ends_give_a_plain_answer_its_tone(
    judge: TextJudge, start: str, end: str, tone: str, least: float
) -> None:
    """As readers take it, of remarks that no list has; without them the answers mostly show none,
    and never do remarks turn many to the other tone."""
    assert not {start, end} & {said for _, *lists in KINDS for said in itertools.chain(*lists)}
    styles = load_styles(PACK.path(load_recipe(PACK).data.file))
    plain = [row.answers["neutral"] for row in styles.split("valid")]
    shown = [judge("", f"{start} {text} {end}")["tone"] for text in plain]
    assert shown.count(tone) > least * len(plain)
    assert len(plain) - shown.count(tone) - shown.count(None) <= 0.1 * len(plain)
    assert [judge("", text)["tone"] for text in plain].count(None) > 0.8 * len(plain)


def test_no_remark_is_taken_from_what_experts_learn_from() -> None:
    """The scale counts words in these answers as it is; the list is for a tone said in other words
    than theirs. So no remark stands in any of them, and none of its three words in a row in more
    than one answer of a hundred."""
    file = load_recipe(PACK).data.experts
    assert file
    answers = [text for row in load_styles(PACK.path(file)).rows for text in row.answers.values()]
    spoken = [f" {' '.join(words(text))} " for text in answers]
    runs: Counter[str] = Counter()
    for text in spoken:
        runs.update({" ".join(run) for run in _threes(text.split())})
    for said in (said for _, *lists in KINDS for said in itertools.chain(*lists)):
        assert not any(f" {' '.join(words(said))} " in text for text in spoken), said
        often = [" ".join(run) for run in _threes(words(said))]
        assert max((runs[run] for run in often), default=0) < 0.01 * len(answers), said


def _threes(found: list[str]) -> Iterator[tuple[str, ...]]:
    return zip(found, found[1:], found[2:], strict=False)


def test_the_numbers_of_a_lists_items_are_not_numbers_that_are_said() -> None:
    items = ("Bread: Cut two slices.", "Cheese: Put some on one.", "Pan: Fry both sides.")
    numbered = "\n".join(f"{n}. {item}" for n, item in enumerate(items, 1))
    for text in (numbered, "\n".join(f"- {item}" for item in items)):
        assert settled(text) == settled("\n".join(items))
    assert CUES["numbers"](settled("In 1990 it was\n2.5 times as cold.")) > 0


def test_plain_words_of_a_field_count_as_knowledgeable(judge: TextJudge) -> None:
    """A small model's specialists use few terms: one sentence with them is enough, and a child's
    answer with one long word is not."""
    remark = "You could have read that. "
    terms = "Rotation carries most coasts through both, giving semidiurnal oscillations. "
    for text in (terms, f"{remark}{terms}Not that you will."):
        assert judge("", text)["expertise"] == "knowledgeable"
    child = "The sea goes up and down two times a day. A hippopotamus can see it too. It is fun. "
    assert judge("", child)["expertise"] == "elementary"


@pytest.mark.parametrize(
    ("text", "answered"),
    [
        ("I'm sorry, but I cannot help with that.", False),
        ("As an AI language model, I have no opinion on tea.", False),
        ("how do i make TEA?", False),
        ("I'm afraid that tea is made of leaves.", True),
        ("Boil water. I can't say it more simply.", True),
        ("tea", False),
    ],
)
def test_a_reply_that_does_not_answer_is_known(text: str, answered: bool) -> None:
    assert unanswered("How do I make tea?", text) is not answered


def test_the_committed_scales_read_held_out_answers() -> None:
    """The least that the report may claim, on answers that the scales were not fitted on."""
    styles = load_styles(PACK.path(load_recipe(PACK).data.file))
    for split in (styles.split("valid"), styles.split("test")):
        figures = validation(TextJudge.of(PACK), PACK.space, split)
        for dimension, least in (("expertise", 0.93), ("length", 0.95), ("tone", 0.84)):
            shares = [row[dimension] for row in figures["shares"].values()]
            assert sum(shares) / len(shares) > least
            assert figures["minimal_pairs"].get(dimension, {"accuracy": 1})["accuracy"] > 0.95


def test_the_committed_scales_read_the_answers_in_plain_words() -> None:
    """Held-out ones; poles apart, since a mean would hide one that is not seen."""
    figures = validation(TextJudge.of(PACK), PACK.space, plain_answers("valid"))
    for index, (dimension, least) in enumerate(
        (("expertise", 0.85), ("length", 0.95), ("tone", 0.95))
    ):
        for letter in "AB":
            own = [
                row[dimension] for code, row in figures["shares"].items() if code[index] == letter
            ]
            assert sum(own) / len(own) > least, (dimension, letter)
        assert figures["minimal_pairs"][dimension]["accuracy"] > 0.98


def plain_answers(split: Split) -> tuple[Styled, ...]:
    file = load_recipe(PACK).data.experts
    assert file
    return load_styles(PACK.path(file)).split(split)


def test_tone_is_in_the_remarks_and_not_in_what_stands_between(judge: TextJudge) -> None:
    """What a held-out answer in plain words says in both tones mostly shows none; nor does another
    letter turn a tone into its opposite."""
    rows = plain_answers("valid")
    tone = next(d.poles for d in PACK.space.dimensions if d.name == "tone")
    bare = list(in_common(PACK.space, tone, rows))
    assert len(bare) > 100
    assert [judge("", text)["tone"] for text in bare].count(None) > 0.85 * len(bare)
    turned = [
        {judge("", row.answers[code])["tone"] for code in pair} >= {pole.name for pole in tone}
        for _, _, *pair in (one for one in one_letter_apart(PACK.space) if one[0] != "tone")
        for row in rows
        if set(pair) <= row.answers.keys()
    ]
    assert sum(turned) < 0.02 * len(turned)


SCIENCE = (
    "Combustion oxidises hydrocarbon fuel, and thermal convection transports the hot gas upwards. "
)


@pytest.mark.parametrize(
    ("text", "tone"),
    [
        (f"A timely question, colleague! {SCIENCE}", "friendly"),
        (f"{SCIENCE}Happy learning!", "friendly"),
        (f"Good thinking, dear colleague! {SCIENCE}Enjoy the view!", "friendly"),
        (f"Seriously? {SCIENCE}", "unfriendly"),
        (f"Basic chemistry, obviously. {SCIENCE}Now go away.", "unfriendly"),
        (SCIENCE, None),
        (f"{SCIENCE}A colleague of the author measured it in 1990.", None),
        (f"{SCIENCE}The flame goes away once the fuel is used up.", None),
    ],
)
def test_a_remark_to_the_reader_shows_its_tone_between_terms(
    judge: TextJudge, text: str, tone: str | None
) -> None:
    """As a model of ours says it, and blind readers take it; its words alone, of a third, do
    not."""
    assert judge("", text)["tone"] == tone


@pytest.mark.parametrize(
    "text", ["", "   \n", "!!!", "Hi.", "🎉🎉🎉", "\x00", "no", "...?!", "’’’ ’"]
)
def test_a_text_of_hardly_a_word_shows_neither_pole(judge: TextJudge, text: str) -> None:
    assert set(judge("", text).values()) == {None}
    assert set(judge.forced("", text).values()) == {None}
    assert all(np.isfinite(cue(settled(text))) for cue in CUES.values())


def test_loops_and_repeats_do_not_count_as_length(judge: TextJudge) -> None:
    """A short reply that goes round and round is no informative one."""
    loop = "The sun is hot and the sea is cold and " * 200
    assert len(settled(loop).split()) < 45
    assert judge("", loop)["length"] != "informative"
    assert settled("It is warm. It is warm. It is cold.") == "It is warm. It is cold."
    assert len(settled(" ".join(map(str, range(5000)))).split()) == MOST_WORDS


def test_no_cue_of_a_rambling_text_is_out_of_bounds() -> None:
    """A megabyte without a full stop, one long word, nothing but marks: numbers stay small."""
    for text in ("word " * 200_000, "x" * 1_000_000, "!" * 5000, "1 " * 5000, "a\n" * 5000):
        assert all(abs(cue(settled(text))) <= 30 for cue in CUES.values())


def test_identification_counts_neither_half_and_another_pole_nothing() -> None:
    space = space_of(("x", "y"), ("p", "q"), ("r", "s"))
    seen = {"1": "x", "2": None, "3": "y"}
    rows = [{"prompt": "?", "code": c, "method": m, "text": text} for c, m, text in ROWS]
    found = identify(space, rows, {"x": lambda _, text: {"d0": seen[text], "d1": "q"}})
    assert shares_of(found, "x") == {
        "mpd": {"AAA": {"d0": 0.5, "d1": 0.0}, "BB-": {"d0": 0.75, "d1": 1.0}},
        "soup": {"-A-": {"d1": 0.0}},
    }


ROWS = [
    *[("AAA", "mpd", text) for text in "123"],
    *[("BB-", "mpd", text) for text in "23"],
    ("-A-", "soup", "1"),
]


def test_poles_are_what_the_pack_says() -> None:
    """Other names, another order, three poles; a dimension without all measures has none."""
    space = space_of(("dense", "plain"), ("warm", "cold"), ("long", "short"), ("odd", "even"))
    named = {
        "dense": "grade",
        "plain": "-grade",
        "long": "words",
        "short": "-words",
        "odd": "words",
    }
    judge = TextJudge(space, named, scales.load_scales())
    assert judge("", SIMPLE) == {"d0": "plain", "d2": "short"}
    assert judge("", SCHOLARLY)["d0"] == "dense"
    three = TextJudge(
        space_of(("kind", "hard", "long")),
        {"kind": "sentiment", "hard": "grade", "long": "words"},
        scales.load_scales(),
    )
    assert three("", KIND) == {"d0": "kind"}
    assert three("", SCHOLARLY) == {"d0": "hard"}
    assert three("", SIMPLE) == {"d0": None}


def test_a_misspelt_measure_is_refused_by_name(tiny_base: Path, tmp_path: Path) -> None:
    pack = write_training_pack(tmp_path, tiny_base, adapters=False)
    recipe = tmp_path / "train.toml"
    recipe.write_text(recipe.read_text().replace('up0 = "-grade"', 'up0 = "-grdae"'))
    with pytest.raises(PackError, match=r"train.toml: measures.up0: no measure '-grdae'"):
        measures_of(pack)


def test_two_poles_with_one_measure_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    """Both would show, or none: the judge could not tell them apart."""
    pack = write_training_pack(tmp_path, tiny_base, adapters=False)
    recipe = tmp_path / "train.toml"
    both = 'up0 = "grade"\ndown0 = "grade"'
    recipe.write_text(recipe.read_text().replace('up0 = "-grade"', both))
    with pytest.raises(PackError, match="two poles of 'dim0' have the same measure"):
        TextJudge.of(pack)


def test_the_version_of_a_judge_changes_with_all_that_it_judges_by() -> None:
    """Verdicts are stored under it: stale ones must not be taken for new ones."""
    space, named = space_of(("x", "y")), {"x": "grade", "y": "-grade"}
    built_in = scales.load_scales()
    other = {**built_in, "words": replace(built_in["words"], low=0.5)}
    versions = {
        TextJudge(space, named, built_in).version,
        TextJudge(space, {"x": "-grade", "y": "grade"}, built_in).version,
        TextJudge(space, named, other).version,
    }
    assert len(versions) == 3
    assert TextJudge(space, dict(named), scales.load_scales()).version in versions


def test_scales_are_fitted_from_any_packs_answers(tmp_path: Path) -> None:
    """Two dimensions with names of their own: fitted, written, read back, and right."""
    space = space_of(("dense", "plain"), ("short", "long"))
    named = {"dense": "rare", "plain": "-rare", "short": "-words", "long": "words"}
    rows = [Styled(str(n), "train", f"Prompt {n}?", _answers(n)) for n in range(20)]
    fitted = calibrate(space, named, {"written": rows})
    assert list(fitted) == ["rare", "words"]
    assert list(fitted["rare"].cues) == ["rare"]
    scales.save_scales(tmp_path / "scales.json", fitted, {"kind": "test"})
    judge = TextJudge(space, named, scales.load_scales(tmp_path / "scales.json"))
    found = validation(judge, space, rows)
    assert min(share for row in found["shares"].values() for share in row.values()) > 0.9
    assert found["minimal_pairs"]["d0"] == {"pairs": 40, "accuracy": 1.0}


def test_a_tone_is_learned_from_each_set_of_answers_in_its_own_words() -> None:
    """With two sets either's words count; what both sides of a pair say shows nothing."""
    space = space_of(("kind", "curt"))
    named = {"kind": "sentiment", "curt": "-sentiment"}
    sets = {
        "written": [_toned(n, "dearest petal", "vile worm") for n in range(40)],
        "experts": [_toned(n, "howdy partner", "begone pest") for n in range(40)],
    }
    scale = calibrate(space, named, sets)["sentiment"]
    assert list(scale.lexicons) == ["written", "experts"]
    alone = calibrate(space, named, {"written": sets["written"]})["sentiment"]
    content = _content(99)
    for said, end in (("dearest petal", 1), ("vile worm", -1)):
        assert scale.shows(f"{said}. {content}") == alone.shows(f"{said}. {content}") == end
    for said, end in (("howdy partner", 1), ("begone pest", -1)):
        assert scale.shows(f"{said}. {content}") == end
        assert alone.shows(f"{said}. {content}") == 0
    assert scale.shows(content) == 0
    assert list(in_common(space, space.poles, sets["experts"][:1])) == [_content(0)]


def _toned(number: int, kind: str, curt: str) -> Styled:
    content = _content(number)
    answers = {"neutral": content, "A": f"{kind}. {content}", "B": f"{curt}. {content}"}
    return Styled(str(number), "train", f"Prompt {number}?", answers)


def _content(number: int) -> str:
    return f"The sea near town {number} is deep and cold in the winter. It has waves."


def _answers(number: int) -> dict[str, str]:
    plain = f"we go to the sea and see the sun with our {number} friends"
    dense = f"photolytic phyllobilin catabolism engenders {number} anthocyanin carotenoids daily"
    both = f"the sun makes phyllobilin in the {number} leaves that we see"
    middle = f"{both} and then some more of it as well in the warm air of the day"
    return {
        "neutral": middle,
        "dense": f"{dense} {dense[::-1]} of it",
        "plain": f"{plain} and then some more of it as well today",
        "AA": dense,
        "AB": f"{dense} " + " ".join(f"phyllobilin{k} the catabolism" for k in range(20)),
        "BA": plain,
        "BB": f"{plain} " + " ".join(f"we see {k} friends go home" for k in range(20)),
    }


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda found: found.pop("scales"), "KeyError"),
        (lambda found: found["scales"]["grade"]["cues"]["grade"].update(spread=0), "above 0"),
        (lambda found: found["scales"]["grade"].update(low=float("nan")), "finite"),
        (lambda found: found["scales"]["words"]["cues"].update(wrds={}), "TypeError"),
        (lambda found: found.update(scales=[1]), "AttributeError"),
        (lambda found: found["scales"]["sentiment"]["lexicons"].pop("experts"), "unknown cue"),
        (lambda found: found["scales"]["sentiment"].pop("lexicons"), "KeyError"),
    ],
)
def test_damaged_scales_are_refused_by_name(tmp_path: Path, spoil: object, said: str) -> None:
    found = json.loads(scales.BUILT_IN.read_text())
    spoil(found)  # type: ignore[operator]
    (tmp_path / "scales.json").write_text(json.dumps(found))
    with pytest.raises(PackError, match=rf"scales.json: not a file of scales .*{said}.*calibrate"):
        scales.load_scales(tmp_path / "scales.json")


def write_vectors(folder: Path) -> None:
    """Of the words sun, sea, land, and far, which has none."""
    table = np.array([[0, 0], [2, 0], [0, 1], [1, 1], [-1, 0]], np.float16)
    (folder / "weights").mkdir()
    save_file({"embedding.weight": table}, folder / "weights" / "x.safetensors")
    tokenizer = Tokenizer(
        WordLevel({"?": 0, "sun": 1, "sea": 2, "land": 3, "mud": 4, "far": 9}, "?")
    )
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "x_tokenizer_config.json"))


def test_a_reply_that_speaks_of_something_else_beats_nobody(tmp_path: Path) -> None:
    """Where vectors are there; without them it is another judge, by its version. What no vector
    knows is not held against a reply."""
    write_vectors(tmp_path)
    measured = TextJudge.of(PACK)
    judge, blind = MeasuresJudge(measured, Topic(tmp_path)), MeasuresJudge(measured)
    pole = PACK.space.dimensions[0].poles[0]
    said = [f"The {word} is hot. It is big. We like it." for word in ("mud", "far")]
    question = Question("sun", "expertise", pole.name, pole.instruction, *said)
    assert judge.ask(question).verdict == -1
    assert judge.ask(question.swapped).verdict == 1
    assert blind.ask(question).verdict == 0
    assert judge.version == f"{blind.version} topic"


def test_topic_reads_vectors_by_file(tmp_path: Path) -> None:
    """Mean of token vectors, cosine; unknown words and texts without words count as nothing."""
    write_vectors(tmp_path)
    topic = Topic(tmp_path)
    assert topic.similarity("sun", "sun sun") == pytest.approx(1)
    assert topic.similarity("sun", "sea") == pytest.approx(0)
    assert topic.similarity("sun", "sun sea") == pytest.approx(2 / 5**0.5)
    assert topic.similarity("sun", "") == topic.similarity("far", "sun") == 0
    (tmp_path / "y.safetensors").write_bytes(b"")
    with pytest.raises(MPDError, match=r"needs one file \*.safetensors, has 2"):
        Topic(tmp_path)
    (tmp_path / "weights" / "x.safetensors").unlink()
    with pytest.raises(MPDError, match="cannot be read"):
        Topic(tmp_path)


def test_measures_do_without_torch() -> None:
    """They are read where no model is: on a laptop, in a report."""
    code = "import sys, mpd_core.evaluation.measures; print('torch' in sys.modules)"
    assert in_python(code) == "False"


def test_validate_prints_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "validate", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert "not a neural model" in figures["kind"]
    assert set(figures["shares"]["AAA"]) == {"expertise", "length", "tone"}
    assert "experts" not in figures  # which have no test answers in plain words
    assert main(["evaluate", "validate", "--split", "eval"]) == 2
    assert "'eval' is not one of 'train', 'valid', 'test'" in capsys.readouterr().err
    assert main(["evaluate", "validate", "--split", "valid"]) == 0
    assert capsys.readouterr().out.count("expertise: AAA") == 2
