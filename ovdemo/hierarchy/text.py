"""Category trees as indented text, the hand-made style of OPSNet (Figure 5).

    thing
      animal
        dog|hound
        cat
    stuff
      sky

One node a line, deeper lines under the shallower one above them; ``|`` separates synonyms, the first is the label. A
tab reaches to the next multiple of four columns. Several lines at the top hang under a root called "anything".
"""

from __future__ import annotations

from dataclasses import dataclass

from ovdemo.errors import UserError
from ovdemo.hierarchy.tree import MAX_NODES, CategoryTree, Draft, grow
from ovdemo.vocabulary import Vocabulary, VocabularyClass, infer_kind
from ovdemo.vocabulary.names import LINE_BREAK, clean_text, name_key, normalise_name

ROOT = "anything"
MAX_CHARACTERS = 2_000_000

_MAX_NAME_CHARACTERS = 80
_MAX_NAMES = 200
_TAB = 4
_INDENT = "  "


@dataclass(frozen=True)
class _Line:
    """A line that holds a node: its number in the text, its column, and its names as they are kept."""

    number: int
    column: int
    names: tuple[str, ...]

    def error(self, sentence: str) -> UserError:
        return UserError(f"Line {self.number}: {sentence}")


def parse_tree(text: str) -> CategoryTree:
    """Read indented text; the grammar is at the top of this module.

    The leaves are the classes, in the order of their lines, their kinds inferred from their names. Names come out as
    :func:`ovdemo.vocabulary.parse_classes` keeps them, but for quotes, colons and commas, which are plain characters.

    Raises:
        UserError: no node, an indentation that matches no line above, a name that comes up twice or is its own
            ancestor, a name of more than 80 characters, more than 200 names in a line, 25,000 nodes, 100 levels or
            2,000,000 characters; where one is to blame, the sentence names the line.
    """
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"The tree has {len(text):,} characters, and {MAX_CHARACTERS:,} are possible; shorten it.")
    lines = _read_lines(text)
    parents = _find_parents(lines)
    _check_names(lines, parents)
    inner = set(parents)
    tops = [index for index, parent in enumerate(parents) if parent is None]
    own_root = len(tops) == 1 and len(lines) > 1
    drafts = [] if own_root else [Draft((ROOT,), None)]
    offset = len(drafts)
    classes: list[VocabularyClass] = []
    for index, (line, parent) in enumerate(zip(lines, parents, strict=True)):
        above = (None if own_root else 0) if parent is None else parent + offset
        class_index = None if index in inner else len(classes)
        drafts.append(Draft(line.names, above, class_index))
        if class_index is not None:
            classes.append(VocabularyClass(line.names, infer_kind(line.names), inferred=True))
    return grow(drafts, Vocabulary(tuple(classes)))


def format_tree(tree: CategoryTree) -> str:
    """The text of a tree, two blanks a level; synsets and glosses are left out.

    :func:`parse_tree` reads it as the same tree if that came from text.
    """
    root = tree.nodes[0]
    hidden = root.names == (ROOT,) and len(root.children) > 1
    lines: list[str] = []
    stack = list(reversed(root.children)) if hidden else [0]
    while stack:
        node = tree.nodes[stack.pop()]
        lines.append(_INDENT * (node.depth - hidden) + "|".join(node.names))
        stack += reversed(node.children)
    return "\n".join(lines)


def _read_lines(text: str) -> list[_Line]:
    lines = []
    for number, raw in enumerate(LINE_BREAK.split(clean_text(text)), start=1):
        names = dict.fromkeys(filter(None, (normalise_name(name) for name in raw.split("|"))))
        if not names:
            continue
        expanded = raw.expandtabs(_TAB)
        line = _Line(number, len(expanded) - len(expanded.lstrip()), tuple(names))
        longest = max(names, key=len)
        if len(longest) > _MAX_NAME_CHARACTERS:
            raise line.error(f'the name "{longest[:20]}…" has {len(longest)} characters; use at most 80.')
        if len(names) > _MAX_NAMES:
            raise line.error(f"{len(names)} names are too many; use at most {_MAX_NAMES}.")
        lines.append(line)
        if len(lines) > MAX_NODES:
            raise line.error(f"here the tree passes {MAX_NODES:,} nodes, the most there can be; leave some out.")
    if not lines:
        raise UserError("The tree is empty; write one category a line and indent the kinds below it.")
    return lines


def _find_parents(lines: list[_Line]) -> list[int | None]:
    """Index of each line's parent: the nearest line above that is less indented."""
    parents: list[int | None] = []
    open_lines: list[int] = []
    for index, line in enumerate(lines):
        closed = None
        while open_lines and lines[open_lines[-1]].column >= line.column:
            closed = lines[open_lines.pop()].column
        if closed is not None and closed != line.column:
            raise line.error(f'the indentation of "{line.names[0]}" matches no line above; align it with its siblings.')
        parents.append(open_lines[-1] if open_lines else None)
        open_lines.append(index)
    return parents


def _check_names(lines: list[_Line], parents: list[int | None]) -> None:
    """No name twice in the tree, whether below itself or elsewhere."""
    owners: dict[str, int] = {}
    for index, line in enumerate(lines):
        for name in line.names:
            first = owners.setdefault(name_key(name), index)
            if first == index:
                continue
            above = parents[index]
            while above is not None and above != first:
                above = parents[above]
            where = f"line {lines[first].number}"
            if above == first:
                raise line.error(f'"{name}" is its own ancestor ({where}); rename one of the two or take it away.')
            raise line.error(f'"{name}" is there already ({where}); a name may stand in one place only.')
