"""docs/codec.md: its example runs, its options exist, and its tables have the bytes that are written."""

import importlib
import re
from pathlib import Path

from codes import HEADER, drawn, packed

from audiomask import cli
from audiomask.cli import parser
from audiomask.runtime.codes.container import END, HEAD, PACKET, WORD

CLI = Path(cli.__file__).parent
PAGE = (Path(__file__).parents[2] / "docs/codec.md").read_text()


def test_the_example_runs():
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(compile(example, "codec.md", "exec"), {})


def test_every_option_exists():
    lines = re.findall(r"audiomask (encode|decode|codec) ([^|#\n<>]*)", "\n".join(PAGE.split("```")[1::2]))
    assert len(lines) > 6
    for verb, words in lines:
        parser(verb, importlib.import_module(f"audiomask.cli.{verb}")).parse_args(words.split())
    for option in re.findall(r"`(--[a-z-]+)`", PAGE):
        assert any(
            option in (CLI / f"{name}.py").read_text() for name in ("encode", "decode", "_codec", "_files")
        )


def test_the_tables_add_up():
    fixed = {
        "Header, 34 bytes": HEAD.size + WORD.size,
        "Packet, 14 bytes": PACKET.size + WORD.size,
        "End, 28 bytes": END.size + 2 * WORD.size,
    }
    for words, size in fixed.items():
        table = PAGE.partition(words)[2].partition("\n\n")[2].partition("\n\n")[0]
        cells = re.findall(r"^\| ([^|]+) \|", table, re.M)[1:]
        numbers = [int(n) for cell in cells for n in re.findall(r"^\d+", cell) if "name" not in cell]
        assert sum(numbers) == size == int(re.search(r"\d+", words)[0])
    sizes = re.search(r"are ([\d,]+) bytes of codes and (\d+) of all else: ([\d.]+) kbit/s", PAGE).groups()
    data = packed(drawn(frames=150, books=12), HEADER, 48000)
    assert (int(sizes[0].replace(",", "")), int(sizes[1])) == (2250, len(data) - 2250)
    assert float(sizes[2]) == round(len(data) * 8 / 3000, 2)


def test_the_keys_of_the_hello_are_described():
    from audiomask.runtime.net.coding import FIELDS

    table = PAGE.partition("## Over a socket")[2].partition("\n\nThe answer")[0]
    assert set(re.findall(r"^\| (`.*?`) \|", table, re.M)) == {
        "`do`", "`kbps`, `frames`", "`plain`", "`header`", "`jitter_ms`, `realtime`"
    }  # fmt: skip
    assert set(re.findall(r"`(\w+)`", table)) >= set(FIELDS)
