"""Steps of an agent that plans trips: from a request to the planner's arguments, and from its result to the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from deepground.messages import Tool, ToolCallPart
from deepground.tasks import entities
from deepground.tasks.agent_steps import OUT_OF_REACH, AgentTask, Step, call, finish
from deepground.tasks.entities import Language, Written
from deepground.tasks.problem import Split

PLAN_TRIP = Tool(
    "plan_trip",
    "Plan a trip; leave out what is not asked for",
    {
        "type": "object",
        "properties": {
            "origin": {"type": "string"},
            "destinations": {"type": "array", "items": {"type": "string"}},
            "days": {"type": "integer"},
            "travellers": {"type": "integer"},
            "children": {"type": "integer"},
            "budget": {"type": "integer"},
            "currency": {"type": "string"},
            "start": {"type": "string"},
            "pace": {"type": "string"},
            "interests": {"type": "array", "items": {"type": "string"}},
            "transport": {"type": "array", "items": {"type": "string"}},
            "avoid_transport": {"type": "array", "items": {"type": "string"}},
            "min_stars": {"type": "integer"},
            "diet": {"type": "array", "items": {"type": "string"}},
            "must_see": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["origin", "destinations", "days"],
    },
)
"""The planner's request, without what its schema says beyond names and types: a small model's context is short."""

CITIES = (
    *("Taipei", "New Taipei", "Keelung", "Tamsui", "Jiufen", "Pingxi", "Wulai", "Taoyuan", "Hsinchu", "Miaoli"),
    *("Taichung", "Changhua", "Lukang", "Sun Moon Lake", "Puli", "Cingjing", "Douliu", "Chiayi", "Alishan", "Tainan"),
    *("Kaohsiung", "Pingtung", "Kenting", "Xiaoliuqiu", "Taitung", "Chishang", "Green Island", "Hualien", "Taroko"),
    *("Yilan", "Jiaoxi", "Luodong", "Magong", "Kinmen", "Tokyo", "Yokohama", "Kamakura", "Nikko", "Hakone", "Kanazawa"),
    *("Takayama", "Nagoya", "Kyoto", "Osaka", "Nara", "Kobe", "Himeji", "Hiroshima", "Fukuoka", "Seoul", "Busan"),
)
CITIES_ZH = (
    *("台北", "臺北", "新北", "基隆", "淡水", "九份", "平溪", "烏來", "桃園", "新竹", "苗栗", "台中", "臺中", "彰化"),
    *("鹿港", "日月潭", "埔里", "清境", "斗六", "嘉義", "阿里山", "台南", "臺南", "高雄", "屏東", "墾丁", "小琉球"),
    *("台東", "池上", "綠島", "花蓮", "太魯閣", "宜蘭", "礁溪", "羅東", "馬公", "金門", "東京", "橫濱", "鎌倉", "日光"),
    *("箱根", "金澤", "高山", "名古屋", "京都", "大阪", "奈良", "神戶", "姬路", "廣島", "福岡"),
)
_SIGHT_ENDINGS = ("Museum", "Temple", "Park", "Tower", "Night Market", "Old Street", "Palace", "Garden", "Lake")
_SIGHT_ENDINGS_ZH = ("博物館", "寺", "公園", "塔", "夜市", "老街", "宮", "花園", "湖")
_OPENINGS = {
    "en": (
        "Plan a {days}-day trip from {origin} to {to}",
        "Plan {days} days in {to} from {origin}",
        "I want to travel from {origin} to {to} for {days} days",
        "Please plan a trip from {origin} to {to}, {days} days",
        "We live in {origin} and would like {days} days in {to}",
        "{days} days in {to}, starting in {origin}",
        "Take me from {origin} to {to} for {days} days",
        "A {days}-day trip to {to} from {origin}, please",
        "We are going to {to} for {days} days from {origin}",
        "Travel plan: {origin} to {to}, {days} days",
        "Find a {days}-day trip from {origin} to {to}",
        "I live in {origin}. Plan {days} days in {to}",
        "Make a plan for {days} days in {to}; we start in {origin}",
        "From {origin} to {to}, {days} days",
        "Show me {days} days in {to} from {origin}",
        "Could you set up {days} days in {to}, leaving from {origin}",
        "Put together a {days}-day visit to {to} from {origin}",
        "Schedule a {days}-day holiday in {to} from {origin}",
        "Would you prepare {days} days in {to}? We start from {origin}",
        "I need a {days}-day stay in {to}. We leave {origin}",
        "Trip to {to}, {days} days, from {origin}",
    ),
    "zh": (
        "請安排從{origin}到{to}的{days}天行程",
        "我想從{origin}去{to}玩{days}天",
        "幫我規劃{to}{days}日遊，從{origin}出發",
        "{origin}出發，{to}{days}天",
        "規劃{days}天的{to}旅行，出發地{origin}",
        "從{origin}到{to}{days}天怎麼玩",
        "{to}{days}天行程，{origin}出發",
        "我們住{origin}，想去{to}{days}天",
        "安排{days}天{to}之旅，由{origin}出發",
        "幫我排{origin}到{to}{days}日遊",
        "計畫去{to}旅行{days}天，從{origin}出發",
        "{origin}到{to}，{days}天",
        "想從{origin}出發去{to}，玩{days}天",
        "請幫忙規劃{origin}往{to}的{days}天旅程",
        "能不能排{to}{days}天，我在{origin}",
        "打算去{to}{days}天，{origin}出發",
        "能否安排{origin}到{to}的{days}天行程",
        "可不可以幫我排{to}{days}天，從{origin}出發",
        "可以幫忙安排{to}{days}日遊嗎，{origin}出發",
        "請排出{origin}到{to}的{days}日行程",
        "下次想去{to}住{days}天，由{origin}啟程",
        "有沒有{origin}到{to}的{days}天計畫",
    ),
}
_UNSEEN_OPENINGS = {
    "en": (
        "Can you arrange {days} days in {to}? We leave from {origin}",
        "Organize a {days}-day tour of {to} from {origin}",
    ),
    "zh": ("想去{to}{days}天，從{origin}走", "可以排一個{origin}到{to}的{days}日行程嗎"),
}
_WITHOUT_ORIGIN = {
    "en": ("Plan a {days}-day trip to {to}", "I want to spend {days} days in {to}"),
    "zh": ("幫我規劃{to}{days}日遊", "我想去{to}玩{days}天"),
}
_WITHOUT_DAYS = {
    "en": ("Plan a trip from {origin} to {to}", "We want to go from {origin} to {to}"),
    "zh": ("請安排從{origin}到{to}的行程", "我想從{origin}去{to}玩"),
}
_MISSING = {
    "origin": {"en": "Please say where the trip starts: origin is missing.", "zh": "請告訴我從哪裡出發：缺 origin。"},
    "days": {"en": "Please say how many days: days is missing.", "zh": "請告訴我幾天：缺 days。"},
}
_OTHER_TASKS = {
    "en": (
        "Write a poem about the sea", "Book a table for tonight", "Translate this letter", "Make the tests pass",
        "Sum up the news of today", "Fix the bug in main.py", "Draw a picture of a cat", "Send an email to Ben",
    ),
    "zh": ("寫一首詩", "幫我訂今晚的餐廳", "翻譯這封信", "讓測試通過", "修正程式的錯誤", "畫一隻貓", "寄信給小明"),
}  # fmt: skip
_INTERESTS = {
    "history": (("history", "historic places"), ("歷史", "古蹟")),
    "temple": (("temples",), ("寺廟", "廟宇")),
    "museum": (("museums",), ("博物館",)),
    "art": (("art",), ("藝術",)),
    "architecture": (("architecture",), ("建築",)),
    "nature": (("nature",), ("大自然", "自然")),
    "hiking": (("hiking", "walking in the mountains"), ("登山", "健行")),
    "beach": (("beaches", "the beach"), ("海灘", "沙灘")),
    "hot_spring": (("hot springs",), ("溫泉",)),
    "park": (("parks",), ("公園",)),
    "view": (("views", "a good view"), ("美景", "風景")),
    "family": (("family places",), ("親子",)),
    "food": (("food", "eating well"), ("美食",)),
    "night_market": (("night markets",), ("夜市",)),
    "shopping": (("shopping",), ("購物", "逛街")),
}
_MODES = {
    "hsr": (("high-speed rail", "HSR"), ("高鐵",)),
    "train": (("train",), ("火車", "台鐵")),
    "bus": (("bus",), ("客運", "巴士")),
    "flight": (("plane",), ("飛機",)),
}
_DIETS = {
    "vegetarian": ("vegetarian", "吃素"),
    "vegan": ("vegan", "全素"),
    "halal": ("halal", "清真"),
    "gluten_free": ("gluten-free", "無麩質"),
}

TOO_EARLY = "The request is clear: call plan_trip first."
"""What the planner's toolset answers to a model that gives up before it has tried."""
_REASONS = (
    *("budget", "budget", "days", "days", "destinations", "transport", "meals", "min_stars", "interests", "pace"),
    *("must_see", "start", "nights", "diet"),
)
"""What a plan cannot meet, as the planner names it."""
_UNASKED = (
    ("travellers", "children", "budget", "start", "min_stars", "transport", "avoid_transport"),
    (range(2, 10), range(1, 4), range(1000, 90_000, 500), ("2026-10-01", "2027-03-15"), range(2, 6), _MODES, _MODES),
)
_CHECKED = (
    *("origin", "destinations", "days", "travellers", "children", "budget", "currency", "start"),
    *("transport", "avoid_transport", "diet"),
)
"""Fields that the planner compares with the request by itself."""

Part = tuple[dict[str, Any], str]
"""Arguments, and the words that ask for them."""


def _count(rng: Random, language: Language, low: int, high: int) -> Written:
    written = entities.count(rng, language, low, high)
    return Written(
        written.value, "three" if written.text == "3" and language == "en" and rng.random() < 0.2 else written.text
    )


def _travellers(rng: Random, language: Language, split: Split) -> Part:
    if rng.random() < 0.3:
        adults, children = _count(rng, language, 1, 4), _count(rng, language, 1, 3)
        total = int(adults.value) + int(children.value)
        if language == "zh":
            words = f"，{adults.text}大{children.text}小"
        else:
            adult = "adult" if adults.value == 1 else "adults"
            words = f", {adults.text} {adult} and {children.text} {'child' if children.value == 1 else 'children'}"
        return {"travellers": total, "children": children.value}, words
    number = _count(rng, language, 2, 9)
    if language == "zh":
        return {"travellers": number.value}, f"，{number.text}{rng.choice(('個人', '人', '位'))}"
    return {"travellers": number.value}, rng.choice(
        (" for {n}", " for {n} people", ", {n} people", ", {n} of us")
    ).format(n=number.text)


def _budget(rng: Random, language: Language, split: Split) -> Part:
    size = rng.randint(4, 5)
    amount = rng.randrange(10 ** (size - 1), 10**size)
    amount = amount if rng.random() < 0.3 else amount // 500 * 500 or 500
    number = f"{amount:,}" if rng.random() < 0.6 else str(amount)
    currency = rng.choice(("TWD", "TWD", "TWD", "JPY", ""))
    arguments: dict[str, Any] = {"budget": amount}
    if currency:
        arguments["currency"] = currency
    if language == "zh":
        money = {
            "TWD": (f"NT${number}", f"台幣{number}元", f"新台幣{number}元"),
            "JPY": (f"日幣{number}元", f"{number}日圓"),
        }
        text = rng.choice(money.get(currency, (f"{number}元", number)))
        return arguments, rng.choice(("，預算{m}", "，不超過{m}", "，{m}以內", "，預算上限{m}")).format(m=text)
    money = {
        "TWD": (f"NT${number}", f"TWD {number}", f"{number} TWD"),
        "JPY": (f"¥{number}", f"{number} yen", f"JPY {number}"),
    }
    text = rng.choice(money.get(currency, (number,)))
    forms = (
        " under {m}",
        ", budget {m}",
        " with a budget of {m}",
        " for less than {m}",
        ", at most {m}",
        " within {m}",
    )
    return arguments, rng.choice(forms).format(m=text)


def _start(rng: Random, language: Language, split: Split) -> Part:
    day = entities.date(rng, language)
    forms = (
        ("，{d}出發", "，從{d}開始") if language == "zh" else (", leaving on {d}", ", starting on {d}", ", from {d}")
    )
    return {"start": day.value}, rng.choice(forms).format(d=day.text)


def _pace(rng: Random, language: Language, split: Split) -> Part:
    pace = rng.choice(("relaxed", "packed"))
    if language == "zh":
        words = ("，步調輕鬆", "，行程悠閒") if pace == "relaxed" else ("，行程緊湊", "，行程排滿")
    else:
        words = (
            (", at a relaxed pace", ", nice and slow") if pace == "relaxed" else (", a packed program", ", see a lot")
        )
    return {"pace": pace}, rng.choice(words)


def _interests(rng: Random, language: Language, split: Split) -> Part:
    chosen = rng.sample(list(_INTERESTS), rng.choice((1, 1, 2)))
    words = [rng.choice(_INTERESTS[theme][language == "zh"]) for theme in chosen]
    if language == "zh":
        return {"interests": chosen}, rng.choice(("，喜歡{w}", "，想看{w}", "，對{w}有興趣")).format(w="和".join(words))
    forms = (", we like {w}", ", with {w}", ", interested in {w}")
    return {"interests": chosen}, rng.choice(forms).format(w=" and ".join(words))


def _transport(rng: Random, language: Language, split: Split) -> Part:
    mode = rng.choice(list(_MODES))
    word = rng.choice(_MODES[mode][language == "zh"])
    if rng.random() < 0.4:
        return {"avoid_transport": [mode]}, f"，不搭{word}" if language == "zh" else f", not by {word}"
    forms = ("，搭{w}", "，坐{w}") if language == "zh" else (" by {w}", ", only by {w}", ", travelling by {w}")
    return {"transport": [mode]}, rng.choice(forms).format(w=word)


def _stars(rng: Random, language: Language, split: Split) -> Part:
    stars = rng.randint(2, 5)
    forms = (
        ("，住{n}星以上飯店", "，飯店至少{n}星")
        if language == "zh"
        else (", hotels of at least {n} stars", ", {n}-star hotels")
    )
    return {"min_stars": stars}, rng.choice(forms).format(n=stars)


def _diet(rng: Random, language: Language, split: Split) -> Part:
    diet = rng.choice(list(_DIETS))
    word = _DIETS[diet][language == "zh"]
    return {"diet": [diet]}, f"，{word}" if language == "zh" else rng.choice((f", {word} food", f", we eat {word}"))


def _must_see(rng: Random, language: Language, split: Split) -> Part:
    if language == "zh":
        sight = entities.company(rng, split, "zh")[:2] + rng.choice(_SIGHT_ENDINGS_ZH)
        return {"must_see": [sight]}, rng.choice(("，一定要去{s}", "，必去{s}")).format(s=sight)
    sight = f"{entities.invented(rng, split)} {rng.choice(_SIGHT_ENDINGS)}"
    return {"must_see": [sight]}, rng.choice((", we must see {s}", ", including {s}")).format(s=sight)


_PARTS: tuple[Callable[[Random, Language, Split], Part], ...] = (
    _travellers, _budget, _start, _pace, _interests, _transport, _stars, _diet, _must_see,
)  # fmt: skip
_WEIGHTS = (5, 5, 3, 2, 4, 2, 1, 1, 2)


def trip_city(rng: Random, split: Split, language: Language) -> str:
    """A city of the planner's database, which training may know whole; or, at times, a name that it has not."""
    if rng.random() < (0.8 if split == "test" else 0.6):
        return rng.choice(CITIES_ZH if language == "zh" else CITIES)
    return entities.city(rng, split, language)


class TripAgent(AgentTask):
    """From a request to the planner's call, past its complaints, to the answer."""

    name = "trip_agent"
    description = "next step of a trip-planning agent: the planner's arguments, a repair, or the answer"
    levels = (1, 2, 3, 4)
    tools = (PLAN_TRIP,)

    def step(self, rng: Random, split: Split, level: int, language: Language) -> Step:
        """Level: how many wishes beyond places and days there are, at most; half of the steps are the first call."""
        kinds = ("call", "done", "cannot", "repair", "early", "missing", "other")
        kind = rng.choices(kinds, (54, 9, 11, 14, 2, 5, 5))[0]
        if kind == "other":
            text = rng.choice(_OTHER_TASKS[language])
            return Step(text, (), finish(OUT_OF_REACH[language], "cannot"), (), kind)
        if kind == "missing":
            return self._missing(rng, split, language)
        request, arguments, text = self.request(rng, split, level, language)
        if kind == "call":
            return Step(text, (), request, (), kind)
        if kind == "early":
            said_no = (finish(OUT_OF_REACH[language], "cannot"), TOO_EARLY)
            return Step(text, (said_no,), request, (), kind)
        if kind == "repair":
            return self._repair(rng, split, language, arguments, text)
        days, total = arguments["days"], rng.randrange(1000, 99_999)
        currency = arguments.get("currency", "TWD")
        if kind == "done":
            result = json.dumps({"ok": True, "days": days, "total": total, "currency": currency})
            answer = f"The plan is ready: {days} days, {total} {currency}."
            answer = f"行程已排好：{days} 天，{total} {currency}。" if language == "zh" else answer
            return Step(text, ((request, result),), finish(answer), (str(total),), kind)
        reason = rng.choice(_REASONS)
        nearest = _nearest(rng, reason, f"{total} {currency}", destinations=arguments["destinations"])
        result = json.dumps({"ok": False, "not_met": reason, "nearest": nearest}, ensure_ascii=False)
        answer = f"{reason} 無法滿足：{nearest}。" if language == "zh" else f"This cannot be met: {reason}; {nearest}."
        return Step(text, ((request, result),), finish(answer, "cannot"), (reason, nearest), kind)

    def request(
        self, rng: Random, split: Split, level: int, language: Language
    ) -> tuple[ToolCallPart, dict[str, Any], str]:
        """A request with up to `level` wishes more: the call, its arguments and the text."""
        cities = self._cities(rng, split, language, 1 if level < 3 or rng.random() < 0.6 else 2)
        origin, *destinations = cities
        days = _count(rng, language, 1 if len(destinations) == 1 else 2, 9)
        unseen = split == "test" and rng.random() < 0.5
        opening = rng.choice((_UNSEEN_OPENINGS if unseen else _OPENINGS)[language])
        arguments: dict[str, Any] = {"origin": origin, "destinations": destinations, "days": days.value}
        joined = ("和" if language == "zh" else " and ").join(destinations)
        text = opening.format(origin=origin, to=joined, days=days.text).replace(" a eight", " an eight")
        parts: list[Part] = []
        chosen: set[Any] = set()
        for make in rng.choices(_PARTS, _WEIGHTS, k=rng.randint(max(0, level - 2), level)):
            if make not in chosen:
                chosen.add(make)
                parts.append(make(rng, language, split))
        text += "".join(words for _, words in parts)
        order = list(PLAN_TRIP.parameters["properties"])
        arguments |= {key: value for given, _ in parts for key, value in given.items()}
        arguments = {key: arguments[key] for key in order if key in arguments}
        ending = rng.choice(("。", "")) if language == "zh" else rng.choice((".", "", "..."[:1]))
        return call(PLAN_TRIP.name, arguments), arguments, text + ending

    @staticmethod
    def _cities(rng: Random, split: Split, language: Language, destinations: int) -> list[str]:
        found: list[str] = []
        while len(found) < destinations + 1:
            if (city := trip_city(rng, split, language)) not in found:
                found.append(city)
        return found

    def _missing(self, rng: Random, split: Split, language: Language) -> Step:
        origin, to = self._cities(rng, split, language, 1)
        days = _count(rng, language, 1, 9)
        what, templates = rng.choice((("origin", _WITHOUT_ORIGIN), ("days", _WITHOUT_DAYS)))
        text = rng.choice(templates[language]).format(origin=origin, to=to, days=days.text)
        parts = [make(rng, language, split) for make in rng.sample(_PARTS[:2], rng.randint(0, 1))]
        text += "".join(words for _, words in parts) + ("。" if language == "zh" else ".")
        return Step(text, (), finish(_MISSING[what][language], "cannot"), (what,), "missing")

    def _repair(self, rng: Random, split: Split, language: Language, arguments: dict[str, Any], text: str) -> Step:
        """After the planner's complaint: about a city that it does not know, or about what the request says."""
        unasked = [(name, values) for name, values in zip(*_UNASKED, strict=True) if name not in arguments]
        if unasked and rng.random() < 0.25:
            name, values = rng.choice(unasked)
            made_up = rng.choice(list(values))
            made = {**arguments, name: [made_up] if isinstance(values, dict) else made_up}
            made = {key: made[key] for key in PLAN_TRIP.parameters["properties"] if key in made}
            result = json.dumps({"error": f"nothing about {name}"})
            return Step(text, ((call(PLAN_TRIP.name, made), result),), call(PLAN_TRIP.name, arguments), (), "repair")
        if rng.random() < 0.6:
            field = rng.choice([name for name in _CHECKED if name in arguments])
            made = _slipped(rng, arguments, field)
            result = json.dumps({"error": f"wrong {field}", "closest": arguments[field]}, ensure_ascii=False)
            past = ((call(PLAN_TRIP.name, made), result),)
            return Step(text, past, call(PLAN_TRIP.name, arguments), (), "repair")
        right = trip_city(rng, split, language)
        wrong = arguments["origin"] if rng.random() < 0.5 else arguments["destinations"][0]
        result = json.dumps({"error": f"no city {wrong}", "closest": right}, ensure_ascii=False)
        fixed = {
            **arguments,
            "origin": right if arguments["origin"] == wrong else arguments["origin"],
            "destinations": [right if city == wrong else city for city in arguments["destinations"]],
        }
        past = ((call(PLAN_TRIP.name, arguments), result),)
        return Step(text, past, call(PLAN_TRIP.name, fixed), (), "repair")


def _nearest(rng: Random, reason: str, total: str, *, destinations: list[str]) -> str:
    """What the planner says of the plan that comes nearest."""
    if reason == "start" or rng.random() < 0.25:
        return rng.choice(("no plan meets it", "no plan was found in the time given"))
    if reason == "budget":
        return f"the nearest plan costs {total}"
    if reason == "days":
        return f"a plan of {rng.randint(2, 12)} days costs {total}"
    value = {
        "destinations": destinations[-1], "nights": destinations[-1], "interests": rng.choice(list(_INTERESTS)),
    }.get(reason, "")  # fmt: skip
    return f"without {reason} {value}".strip() + f" a plan costs {total}"


def _slipped(rng: Random, arguments: dict[str, Any], field: str) -> dict[str, Any]:
    """Arguments with a mistake in one field, as a model makes them: left out, cut, or another."""
    value = arguments[field]
    if field not in PLAN_TRIP.parameters["required"] and rng.random() < 0.4:
        return {name: kept for name, kept in arguments.items() if name != field}
    if field == "destinations":
        wrong: Any = value[:1] if len(value) > 1 else [arguments["origin"]]
    elif field in {"transport", "avoid_transport", "diet"}:
        wrong = [rng.choice([other for other in (_DIETS if field == "diet" else _MODES) if other not in value])]
    elif isinstance(value, int):
        digits = str(value)
        wrong = int(digits[:-1]) if len(digits) > 1 and rng.random() < 0.5 else value + rng.choice((-1, 1, 10))
        wrong = wrong if wrong > 0 else value + 1
    elif field == "start":
        wrong = value[:-1] + str((int(value[-1]) + 1) % 10)
    elif field == "currency":
        wrong = "JPY" if value == "TWD" else "TWD"
    else:
        wrong = value[: max(1, len(value) - rng.randint(1, 2))]
    return {**arguments, field: wrong}
