"""Texts from files are shown in Markdown as they are, and nothing in them is markup."""

import json

import pytest

from precompute.base.markup import code, json_code, markdown, one_line, without_folders

ODD = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[a](http://x.example/)", "![](//x.example/a.png)",
    "a|b", "**bold** _it_", "`code` ``two``", "a\n# heading\n\n---", "www.x.example @somebody", "&lt;b&gt;", "\\<b>",
    "$x^2$", "~~gone~~", "\x1b[2J", "javascript:alert(1)",
)  # fmt: skip


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("write", [markdown, code])
def test_nothing_is_markup(text, write):
    shown = write(text)
    assert "\n" not in shown
    if shown.startswith("`"):
        assert not set("<`&|") & set(shown[1:-1])
        return
    bare = shown.replace("\\\\", "")
    for special in "`*_[]|~$":
        assert bare.count(special) == bare.count("\\" + special), shown
    assert "<" not in shown
    assert "http:" not in shown
    assert "www." not in shown
    assert "@" not in shown


@pytest.mark.parametrize("name", ["cub", "train/fit", "CUB 200 (small)", "001.Weißkehl", "ours: fused (linear)"])
def test_ordinary_names_stay_as_they_are(name):
    assert markdown(name) == name
    assert code(name).strip("`") == name


def test_json_is_the_same_and_holds_no_markup():
    value = {"root": "<b>`x`</b> & ü", "list": [1, None]}
    shown = json_code(value)
    assert not set("<>&`\n") & set(shown[1:-1])
    assert json.loads(shown[1:-1]) == value


def test_folders_are_left_out():
    about = {
        "root": "/home/somebody/data/CUB", "detector": {"weights": "C:\\Users\\me\\u2net.onnx", "folder": "../maps/a"},
        "more": ["~/x/y.pth", "images/a.jpg", "/"], "grid": 64, "source": "gt, else geodesic",
    }  # fmt: skip
    assert without_folders(about) == {
        "root": "CUB", "detector": {"weights": "u2net.onnx", "folder": "a"}, "more": ["y.pth", "images/a.jpg", ""],
        "grid": 64, "source": "gt, else geodesic",
    }  # fmt: skip


def test_one_line_is_one_line():
    assert one_line("a\nb\x1b[2J\r") == "a\\nb\\x1b[2J\\r"
    assert one_line("Weißkehl 山雀") == "Weißkehl 山雀"
    assert len(one_line("x" * 10_000)) == 201
