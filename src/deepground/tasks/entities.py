"""Names, places, things and dates for the tasks on texts; those of the test split are never trained on."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from deepground.tasks.problem import Split
from deepground.tasks.words import random_word

Language = Literal["en", "zh"]
CHINESE_SHARE = 0.4
_HELD_OUT_SHARE = 6
"""One name in this many belongs to the test split."""
_TRAIN_LISTED_SHARE = 0.4

FIRST_NAMES = (
    *("Anna", "Ben", "Carla", "David", "Elena", "Frank", "Grace", "Hugo", "Irene", "Jonas", "Karen", "Leo", "Maria"),
    *("Nina", "Oscar", "Paula", "Quinn", "Rosa", "Samuel", "Tara", "Umar", "Vera", "Walter", "Xenia", "Yusuf", "Zoe"),
    *("Mei", "Ken", "Aisha", "Diego", "Emma", "Felix", "Hana", "Ivan", "Julia", "Kofi", "Lin", "Mina", "Noah", "Olga"),
)
LAST_NAMES = (
    *("Adams", "Becker", "Chen", "Dubois", "Evans", "Fischer", "Garcia", "Huang", "Ito", "Jansen", "Khan", "Lopez"),
    *("Meyer", "Novak", "Okafor", "Peters", "Rossi", "Silva", "Tanaka", "Urban", "Vogel", "Wang", "Young", "Zhou"),
    *("Lindqvist", "Moreau", "Nakamura", "Olsen", "Park", "Reyes", "Schmidt", "Torres", "Ueda", "Weber"),
)
SURNAMES_ZH = "陳林黃張李王吳劉蔡楊許鄭謝郭洪曾邱廖賴周徐蘇葉莊呂江何蕭羅高"
GIVEN_ZH = "志明淑芬建宏雅婷俊傑怡君美玲文雄家豪佩珊冠宇欣怡宗翰惠雯信安子涵品妍柏翰詩涵承恩思妤"
CITIES = (
    *("Taipei", "Tainan", "Taichung", "Kaohsiung", "Hualien", "Hsinchu", "Keelung", "Yilan", "Taitung", "Chiayi"),
    *("Tokyo", "Osaka", "Kyoto", "Seoul", "Busan", "Hanoi", "Bangkok", "Manila", "Sydney", "Perth", "Boston", "Denver"),
    *("Chicago", "Toronto", "London", "Paris", "Lyon", "Berlin", "Munich", "Vienna", "Prague", "Madrid", "Lisbon"),
    *("Rome", "Milan", "Oslo", "Dublin", "Geneva", "Zurich", "Athens", "Cairo", "Nairobi", "Lima", "Quito", "Austin"),
)
CITIES_ZH = (
    *("台北", "台南", "台中", "高雄", "花蓮", "新竹", "基隆", "宜蘭", "台東", "嘉義", "屏東", "桃園", "苗栗", "彰化"),
    *("南投", "雲林", "澎湖", "東京", "大阪", "京都", "首爾", "香港", "曼谷", "巴黎", "倫敦", "羅馬"),
)
ITEMS = (
    *("desk lamp", "office chair", "notebook", "printer", "coffee mug", "backpack", "keyboard", "monitor", "umbrella"),
    *("water bottle", "phone case", "headset", "stapler", "whiteboard", "toner cartridge", "green tea", "rice cooker"),
    *("bath towel", "wall clock", "garden hose", "paint brush", "tool box", "camping tent", "yoga mat", "soap bar"),
    *("paper roll", "steel bolt", "copper pipe", "light bulb", "bread knife", "frying pan", "tea kettle", "blanket"),
)
ITEMS_ZH = (
    *("檯燈", "辦公椅", "筆記本", "印表機", "咖啡杯", "背包", "鍵盤", "螢幕", "雨傘", "水壺", "手機殼", "耳機"),
    *("訂書機", "白板", "碳粉匣", "綠茶", "電鍋", "毛巾", "時鐘", "水管", "油漆刷", "工具箱", "帳篷", "瑜珈墊", "肥皂"),
)
COMPANY_ENDINGS = ("Ltd", "Inc", "GmbH", "Trading", "Supplies", "Foods", "Systems", "Logistics")
COMPANY_ENDINGS_ZH = ("公司", "企業", "商行", "科技", "貿易")
PLACES = (
    *("the main office", "room 204", "the city library", "the clinic", "Cafe Luna", "the town hall", "meeting room B"),
    *("the dental practice", "the north gate", "the branch office", "room 12", "the lobby", "the school gym"),
)
PLACES_ZH = ("總公司", "會議室", "市立圖書館", "診所", "咖啡廳", "市政府", "分公司", "大廳", "體育館", "一樓櫃台")
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September", "October"),
    *("November", "December"),
)
_OTHER_CHARACTERS_ZH = (
    "上下大小東西南北中山川水木金土石花草春夏秋冬日月星雲風雨白青紅天地海河湖田村新平安和美光明華龍鳳"
    "臺淡九份溪烏來鹿港潭埔里清境斗六墾丁琉球池綠島太魯閣礁羅馬公門橫濱鎌倉箱根澤名古屋奈良神戶姬路廣福岡"
)
_RARE_CHARACTERS_ZH = (
    "的是不了人我在有他這個們來到時說就要出會可也你對生能而子那得於著下自年發後作里用道行所然家種事成方多經麼去法學如都同現當"
    "沒動面起看定分還進好小部其些主樣理心本前開但因只從想實意長使點最高情手電走機工力關相題此信體期使重問間與內正外將兩明理"
    "性全無間氣物合放見第及比常提先回位很量表男女老少父母兄弟姊妹貓狗魚鳥馬牛羊雞豬車船飛票錢買賣店街路門窗房屋床桌椅燈書筆"
    "紙字畫歌舞球飯菜湯麵米肉果糖鹽油茶酒刀叉碗盤衣褲鞋帽紅綠黑灰黃藍紫甜酸苦辣早晚週末分秒左右內外遠近快慢輕重厚薄乾濕"
)
"""Everyday characters that few wordings have: a tokenizer of a few thousand tokens spells them in bytes, and names that
hold them are what teaches a model to copy such bytes."""
_RARE_SHARE = 0.2
"""Of the characters of names that mean nothing, in training."""
COUNT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
COUNT_WORDS_ZH = "零一二三四五六七八九十"


def is_held_out(text: str) -> bool:
    """Whether a name belongs to the test split."""
    return zlib.crc32(f"entity {text}".encode()) % _HELD_OUT_SHARE == 0


def choose(rng: Random, names: Sequence[str], split: Split) -> str:
    """One of the names that belong to the split.

    The held-out ones depend on the names alone, so that a list may grow without moving any of them.
    """
    return rng.choice([name for name in names if is_held_out(name) == (split == "test")])


def _make(rng: Random, split: Split, make: object) -> str:
    assert callable(make)
    while True:
        text = str(make(rng))
        if is_held_out(text) == (split == "test"):
            return text


def invented(rng: Random, split: Split, low: int = 4, high: int = 8) -> str:
    """A made-up or common word with a capital letter: names that no list foresees."""
    return _make(rng, split, lambda r: random_word(r, r.randint(low, high)).capitalize())


def invented_zh(rng: Random, split: Split, low: int = 2, high: int = 4) -> str:
    """Characters in an order that means nothing: a name that can only be copied, never known."""
    pool = _characters_zh()
    rare = _RARE_SHARE if split == "train" else 0.0

    def character(r: Random) -> str:
        return r.choice(_RARE_CHARACTERS_ZH if r.random() < rare else pool)

    return _make(rng, split, lambda r: "".join(character(r) for _ in range(r.randint(low, high))))


@functools.cache
def _characters_zh() -> str:
    """Every character of the lists, so that none is met in the test split for the first time."""
    lists = (*CITIES_ZH, *ITEMS_ZH, *PLACES_ZH, SURNAMES_ZH, GIVEN_ZH, _OTHER_CHARACTERS_ZH)
    return "".join(sorted(set("".join(lists))))


def _foreseen(rng: Random, split: Split, share: float) -> bool:
    """Whether to take a name from a list.

    Training shows more names that no list has than the test asks for: a model that may know most names learns to know
    them, not to copy.
    """
    return rng.random() < (share if split == "test" else _TRAIN_LISTED_SHARE)


def person(rng: Random, split: Split, language: Language) -> str:
    """A full name."""
    if language == "zh":
        return _make(
            rng, split, lambda r: r.choice(SURNAMES_ZH) + "".join(r.choice(GIVEN_ZH) for _ in range(r.randint(1, 2)))
        )
    first = choose(rng, FIRST_NAMES, split) if rng.random() < 0.6 else invented(rng, split, 3, 6)
    last = choose(rng, LAST_NAMES, split) if rng.random() < 0.5 else invented(rng, split)
    return f"{first} {last}" if rng.random() < 0.85 else first


def city(rng: Random, split: Split, language: Language) -> str:
    """A city, mostly a real one."""
    if language == "zh":
        return choose(rng, CITIES_ZH, split) if _foreseen(rng, split, 1.0) else invented_zh(rng, split, 2, 3)
    return choose(rng, CITIES, split) if _foreseen(rng, split, 0.75) else invented(rng, split)


def item(rng: Random, split: Split, language: Language) -> str:
    """Something that is sold."""
    if language == "zh":
        return choose(rng, ITEMS_ZH, split) if _foreseen(rng, split, 1.0) else invented_zh(rng, split)
    return choose(rng, ITEMS, split) if _foreseen(rng, split, 0.75) else invented(rng, split).lower()


def company(rng: Random, split: Split, language: Language) -> str:
    """A company's name."""
    if language == "zh":
        name = _make(rng, split, lambda r: "".join(r.sample(SURNAMES_ZH + GIVEN_ZH, 2)))
        return name + rng.choice(COMPANY_ENDINGS_ZH)
    return f"{invented(rng, split)} {rng.choice(COMPANY_ENDINGS)}"


def place(rng: Random, split: Split, language: Language) -> str:
    """Where people meet."""
    if _foreseen(rng, split, 1.0):
        return choose(rng, PLACES_ZH if language == "zh" else PLACES, split)
    return invented_zh(rng, split) if language == "zh" else f"{invented(rng, split)} {invented(rng, split)}"


@dataclass(frozen=True)
class Written:
    """A value and how a text writes it."""

    value: str | int
    text: str


def date(rng: Random, language: Language) -> Written:
    """A day of 2024 to 2027; the value is `YYYY-MM-DD`."""
    year, month, day = rng.randint(2024, 2027), rng.randint(1, 12), rng.randint(1, 28)
    forms = [f"{year}-{month:02d}-{day:02d}", f"{year}/{month}/{day}"]
    if language == "zh":
        forms += 3 * [f"{year}年{month}月{day}日"]
    else:
        name = MONTHS[month - 1]
        forms += 2 * [f"{name} {day}, {year}", f"{day} {name} {year}"]
    return Written(f"{year}-{month:02d}-{day:02d}", rng.choice(forms))


def clock(rng: Random, language: Language) -> Written:
    """A time of day in quarters of an hour, from 08:00 to 20:45; the value is `HH:MM` of 24 hours."""
    hour, minute = rng.randint(8, 20), rng.choice((0, 15, 30, 45))
    twelve = hour if hour <= 12 else hour - 12
    forms = [f"{hour:02d}:{minute:02d}"]
    if language == "zh":
        half = "上午" if hour < 12 else "下午"
        forms += [f"{half}{twelve}點{'' if minute == 0 else f'{minute}分'}", f"{half}{twelve}:{minute:02d}"]
    else:
        half = "am" if hour < 12 else "pm"
        forms += [
            f"{twelve}:{minute:02d} {half}",
            f"{twelve} {half}" if minute == 0 else f"{twelve}:{minute:02d} {half}",
        ]
    return Written(f"{hour:02d}:{minute:02d}", rng.choice(forms))


def money(rng: Random, language: Language, *, digits: tuple[int, int] = (2, 5)) -> Written:
    """A whole amount; the value is the number alone."""
    size = rng.randint(*digits)
    amount = rng.randrange(10 ** (size - 1), 10**size)
    if size > 2 and rng.random() < 0.5:
        amount = amount // 100 * 100 or 100
    number = f"{amount:,}" if rng.random() < 0.5 else str(amount)
    forms = (f"{number}元", f"NT${number}", f"{number} 元") if language == "zh" else (f"${number}", f"NT${number}")
    return Written(amount, rng.choice(forms))


def count(rng: Random, language: Language, low: int, high: int) -> Written:
    """A small number as a digit or, up to ten, as a word; the value is the number."""
    number = rng.randint(low, high)
    if number > 10 or rng.random() < 0.5:
        return Written(number, str(number))
    if language == "zh":
        return Written(number, "兩" if number == 2 else COUNT_WORDS_ZH[number])
    return Written(number, COUNT_WORDS[number])
