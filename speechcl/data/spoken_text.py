"""English text as it is said, where a synthesiser's dictionary does not spell it out."""

from __future__ import annotations

import re

_ABBREVIATIONS = {
    "Mr": "mister",
    "Mrs": "missus",
    "Ms": "miz",
    "Dr": "doctor",
    "Prof": "professor",
    "Rev": "reverend",
    "Hon": "honourable",
    "Lt": "lieutenant",
    "Col": "colonel",
    "Gen": "general",
    "Capt": "captain",
    "Sgt": "sergeant",
    "Gov": "governor",
    "Jr": "junior",
    "Sr": "senior",
    "Co": "company",
    "Ltd": "limited",
    "Jan": "January",
    "Feb": "February",
    "Aug": "August",
    "Sept": "September",
    "Oct": "October",
    "Nov": "November",
    "Dec": "December",
    "vs": "versus",
    "etc": "et cetera",
    "e.g": "for example",
    "i.e": "that is",
    "approx": "approximately",
    "dept": "department",
}
_ABBREVIATIONS |= {name.upper(): said for name, said in _ABBREVIATIONS.items() if name.isalpha()}
_NAMES = "|".join(re.escape(name) for name in _ABBREVIATIONS)
# Words that begin a sentence far more often than a name: a full stop before them is one.
_OPENERS = (
    r"(?:A|An|And|At|But|He|How|I|If|In|It|No|On|She|So|That|The|Then|There|They|This|We|What"
    r"|When|Where|Who|Why|Yes|You)\b(?!\.)"
)
_UNITS = {
    "km": "kilometres",
    "cm": "centimetres",
    "mm": "millimetres",
    "kg": "kilograms",
    "mg": "milligrams",
    "lb": "pounds",
    "lbs": "pounds",
    "oz": "ounces",
    "ft": "feet",
    "mph": "miles an hour",
    "Hz": "hertz",
    "kHz": "kilohertz",
    "MHz": "megahertz",
    "GHz": "gigahertz",
}
_MONEY = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}
_SCALES = {"k": "thousand", "m": "million", "b": "billion", "bn": "billion"}
_SHORT, _LONG = "[kKmM]|[bB]n?", "thousand|million|billion|trillion"
_NUMBER = r"\d{1,3}(?:,\d{3})+|\d+"
_END = "\0"  # where a full stop was that belongs to an abbreviation
_TENS = ["twenties", "thirties", "forties", "fifties"]
_TENS += ["sixties", "seventies", "eighties", "nineties"]


def spell_out(text: str) -> str:
    """Write abbreviations, money, years, ranges and units of an English text as they are said.

    Plain numbers, ordinals and clock times stay: espeak-ng says them rightly.

    Arguments
    ---------
    text : str
        As people write it.

    Returns
    -------
    str

    Example
    -------
    >>> spell_out("Lt. Ng paid $5.50 in 1984 for 3 km.")
    'lieutenant Ng paid 5 dollars 50 in 19 84 for 3 kilometres.'
    >>> spell_out("No. 5, open 10-12; the 1990s")
    'number 5, open 10 to 12; the nineteen nineties'
    """
    text = re.sub(rf"([$£€])({_NUMBER})[-–](?={_NUMBER})", r"\2 to \1", text)
    text = re.sub(r"\b(\d{3})-(0\d{3})\b", _digits, text)  # of a telephone; no range begins by 0
    text = re.sub(rf"([$£€])({_NUMBER})(?:\.(\d+))?(?:({_SHORT})\b| ({_LONG})\b)?", _money, text)
    text = re.sub(rf"(?<=[a-z] )St\.(?= {_OPENERS})", "street.", text)
    text = re.sub(r"\bSt\.(?= [A-Z])", "saint", text)
    text = re.sub(r"\b([A-Z][a-z]+ )Dr\.(?! [A-Z])", rf"\1drive{_END}", text)
    text = re.sub(r"(?<=\w )St\.", f"street{_END}", text)
    text = re.sub(r"\b[Nn]o\. (?=\d)", "number ", text)
    text = re.sub(rf"\b({_NAMES})\.", lambda m: _ABBREVIATIONS[m[1]] + _END, text)
    text = re.sub(rf"\b([A-Z])\.(?= [A-Z])(?! {_OPENERS})", r"\1", text)  # initials
    text = re.sub(
        rf"(?<=\d) ?({'|'.join(_UNITS)})\b(\.?)",
        lambda m: f" {_UNITS[m[1]]}{_END if m[2] else ''}",
        text,
    )
    # it is a full stop as well where nothing follows
    text = re.sub(rf"{_END}(?=\s*$)", ".", text).replace(_END, "")
    text = re.sub(r"(?<![\d-])(\d+)[-–](?=\d+(?![\d-]))", r"\1 to ", text)
    text = re.sub(r"\b(1[1-9]|20)([2-9])0s\b", _decade, text)
    return re.sub(r"(?<![\d.,:$£€/-])(1[1-9]|20)(\d\d)(?![\d%/]|[.,:-]\d)", _year, text)


def _money(match: re.Match) -> str:
    sign, whole, parts, short, long = match.groups()
    one, cent = _MONEY[sign]
    scale = _SCALES[short.lower()] if short else long
    if scale or (parts and len(parts) != 2):  # no cents
        return " ".join([f"{whole}.{parts}" if parts else whole, *filter(None, [scale]), f"{one}s"])
    said = f"{whole} {one}{'' if whole == '1' else 's'}"
    if not parts or parts == "00":
        return said
    if whole == "0":
        return f"{int(parts)} {cent if int(parts) == 1 else _plural(cent)}"
    return f"{said} {int(parts)}"


def _digits(match: re.Match) -> str:
    return ", ".join(" ".join(group) for group in match.groups())


def _plural(word: str) -> str:
    return "pence" if word == "penny" else word + "s"


def _decade(match: re.Match) -> str:
    century = {"11": "eleven", "12": "twelve", "13": "thirteen", "15": "fifteen", "20": "twenty"}
    numbers = ("fourteen", "sixteen", "seventeen", "eighteen", "nineteen")
    century |= dict(zip(("14", "16", "17", "18", "19"), numbers, strict=True))
    return f"{century[match[1]]} {_TENS[int(match[2]) - 2]}"


def _year(match: re.Match) -> str:
    century, year = match.groups()
    if century == "20" and year < "10":
        return match[0]
    if year == "00":
        return f"{century} hundred"
    return f"{century} {'oh ' + year[1] if year[0] == '0' else year}"
