"""Make a synthetic QA dataset in the SQuAD v1.1 format, which needs no download.

Each passage is about one invented subject, such as a ship or a bridge. A fact has two values of one
kind, such as a leader and a doctor. The kind of an answer alone therefore does not identify it. The
test split has names and wordings that the training split lacks.
"""

import itertools
import random
import re

from smp.data.words import SKY_FACTS, SYNTHETIC_WORDS, TOWN_FACTS, TRADE_FACTS, TRAVEL_FACTS

SEED_TEXT = "almanac"  # in the random seeds and the ids: another text makes other questions


def read_fact_tables(table: str) -> dict[str, dict]:
    """Return {domain: {"names", "facts": [{"kind", "apart", "together", "questions"}]}}.

    Lines: `domain = name / name ...`; `role + role: kind` starts a fact; indented below it,
    `sentence / sentence` states its roles apart, one sentence states both together, and
    `role? question` is a question about one. `[a|b|*c]` is a choice of wordings; `*` marks one
    for "test".
    """
    domains: dict[str, dict] = {}
    for line in filter(str.strip, table.splitlines()):
        if " = " in line:
            domain, names = line.split(" = ")
            facts: list[dict] = []
            domains[domain] = {"names": names.split(" / "), "facts": facts}
        elif not line.startswith(" "):
            roles, kind = line.split(": ")
            questions = dict.fromkeys(roles.split(" + "))
            facts.append({"kind": kind, "apart": [], "together": [], "questions": questions})
        elif asked := re.match(r"\s+(\w+)\? ", line):
            facts[-1]["questions"][asked[1]] = line[asked.end() :]
        else:
            statements = line.strip().split(" / ")
            facts[-1]["apart" if len(statements) == 2 else "together"].append(statements)
    return domains


def wordings(template: str, split: str) -> list[str]:
    """Return every wording of a template for a split; choices marked `*` are for "test" only."""
    parts = re.split(r"\[(.*?)\]", template)  # odd parts are choices
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    if split == "train":
        choices = [[c for c in options if not c.startswith("*")] for options in choices]
    return ["".join(picked).replace("*", "") for picked in itertools.product(*choices)]


def synthetic_words(kind: str) -> list[str]:
    """Return the words (or phrases) of a kind, of both splits."""
    text = SYNTHETIC_WORDS[kind]
    return [" ".join(w.split()) for w in (text.split(",") if "," in text else text.split())]


def draw_value(kind: str, split: str, rng: random.Random) -> str:
    """Return a random value of a kind; the splits share numbers but no names or words."""
    if kind == "number":
        return str(rng.randrange(12, 99))
    if kind == "person":
        return draw_value("first", split, rng) + " " + draw_value("surname", split, rng)
    if kind == "place":
        return draw_value("stem", split, rng) + draw_value("ending", split, rng)
    return rng.choice([word for i, word in enumerate(synthetic_words(kind))
                       if (i % 3 == 2) == (split == "test")])


def draft_passage(domain: dict, split: str, rng: random.Random) -> tuple[str, str, list[tuple]]:
    """Return (title, context, [(question, answer texts)]) about one invented subject."""
    first, *later = domain["names"]
    kinds = re.findall(r"{(\w+)}", first)
    name = first.format(**{kind: draw_value(kind, split, rng) for kind in kinds})
    statements, asked = [], []
    for i, fact in enumerate(rng.sample(domain["facts"], 4)):
        if fact["kind"] == "year":  # the tables name the earlier event first
            year = rng.randrange(1920, 1970)
            values = [str(year), str(year + rng.randint(1, 19))]
        else:
            values = [draw_value(fact["kind"], split, rng) for _ in fact["questions"]]
        roles = dict(zip(fact["questions"], values))
        for template in rng.choice(fact["together" if i == 0 else "apart"]):
            statements.append((rng.choice(wordings(template, split)), roles))
        for role, template in fact["questions"].items():
            question = rng.choice(wordings(template, split)).format(it=rng.choice(later))
            texts = [roles[role]]
            if fact["kind"] == "person" and split == "test":
                texts.append(roles[role].split()[-1])  # the surname alone is correct too
            asked.append((question, texts))
    rng.shuffle(statements)
    rng.shuffle(asked)
    context = ""
    for wording, roles in statements:
        mentions = [*later, "it"] if wording.startswith("{it}") else later
        it = rng.choice(mentions) if context else name
        sentence = wording.format(it=it, **roles).rstrip(".")
        context += sentence[0].upper() + sentence[1:] + ". "
    return name[0].upper() + name[1:], context.strip(), asked


def make_synthetic_squad(split: str, n_questions: int, seed: int = 0) -> dict:
    """Return exactly n_questions questions with their passages as SQuAD v1.1 JSON.

    A passage has three to five questions; the last may have fewer. The text depends only on split
    ("train" or "test") and seed: a larger n_questions appends to it.
    Raises ValueError for another split or n_questions < 1.
    """
    if split not in ("train", "test"):
        raise ValueError(f'synthetic split {split!r}: expected "train" or "test"')
    if n_questions < 1:
        raise ValueError(f"synthetic n_questions {n_questions}: expected 1 or more")
    domains = [*read_fact_tables(TRAVEL_FACTS + TRADE_FACTS + TOWN_FACTS + SKY_FACTS).values()]
    articles: list[dict] = []
    n = 0
    while n < n_questions:
        rng = random.Random(f"{SEED_TEXT} {split} {seed} {len(articles)}")
        domain = domains[len(articles) % len(domains)]
        while True:
            title, context, asked = draft_passage(domain, split, rng)
            clear = all(context.count(text) == 1 for _, texts in asked for text in texts)
            if clear and len(context.split()) >= 53:  # 60 to 80 word pieces
                break
        qas = []
        for question, texts in asked[: min(rng.randint(3, 5), n_questions - n)]:
            answers = [{"text": text, "answer_start": context.index(text)} for text in texts]
            qas.append({"id": f"{SEED_TEXT}-{split}-{n:06d}", "question": question,
                        "answers": answers})
            n += 1
        articles.append({"title": title, "paragraphs": [{"context": context, "qas": qas}]})
    return {"version": "1.1", "data": articles}


def find_rival(example: dict) -> str | None:
    """Return the other value of the answer's kind in a synthetic row's passage, otherwise None."""
    answer = example["answers"]["text"][0]
    any_of = {kind: f"(?:{'|'.join(synthetic_words(kind))})" for kind in SYNTHETIC_WORDS}
    person, place = any_of["first"] + " " + any_of["surname"], any_of["stem"] + any_of["ending"]
    for pattern in ("[0-9]{2}", "[0-9]{4}", person, place, *any_of.values()):
        found = {*re.findall(rf"\b{pattern}\b", example["context"])}
        others = [text for text in found - {answer} if text not in example["title"]]
        if answer in found and len(others) == 1:  # a title may contain another place
            return others[0]
    return None
