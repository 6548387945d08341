"""What came of a run, in which words and in which table?"""

DIRECT = "direct"
# Of more cases only the number is told; target/clients.json has them all.
CASES_NAMED_MAX = 10
INTRODUCTION = """# Drivers through a gateway

<!-- Written by `make test-clients`; do not edit. -->

Real drivers against real regions: each runs its cases at five places, and whatever differs from the first is explained below, or the run fails.

| place | where a driver connects |
| --- | --- |
| direct | the owner's PostgreSQL, without a gateway |
| owner | the gateway of the region that owns all rows, in an active-passive cluster (`partition = "whole"`) |
| follower | the gateway of the other region of that cluster |
| shared | as `owner`, where clients share servers while a transaction lasts (`sharing = "transaction"`) |
| elsewhere | where every region writes (`partition = "home(home)"`), the gateway of a region that does not own the rows; the role has `domicile.key` set to whose they are |

The columns of these names say how many cases passed there.
"""


class Report:
    """Results by driver and place, held against what is explained."""

    def __init__(self, results, explained):
        self.results = results
        self.explained = explained
        self.used = set()
        self.differences = [found for driver in results for found in self._differences(driver)]

    def _differences(self, driver):
        places = self.results[driver]
        if DIRECT not in places:
            return
        direct = places[DIRECT]["cases"]
        for place in places:
            here = places[place]["cases"]
            for case in dict.fromkeys([*direct, *here]):
                what = _difference(direct.get(case), here.get(case))
                if what:
                    why = self._why(driver, case, place)
                    yield {"driver": driver, "case": case, "place": place, "what": what, "why": why}

    def _why(self, driver, case, place):
        for number, known in enumerate(self.explained):
            if driver in known["drivers"] and case in known["cases"] and place in known["places"]:
                self.used.add(number)
                return known["why"]
        return None

    def unexplained(self):
        return [found for found in self.differences if found["why"] is None]

    def outdated(self):
        """Explanations of what no longer differs."""
        unused = [known for number, known in enumerate(self.explained) if number not in self.used]
        return [known for known in unused if self._ran(known) and not known.get("sometimes")]

    def _ran(self, known):
        return all(place in self.results.get(driver, {}) for driver in known["drivers"] for place in known["places"])

    def words(self):
        lines = [f"{found['driver']}, {found['place']}: {found['case']} differs, and nothing explains it: {found['what']}"
                 for found in self.unexplained()]
        lines += [f"explained, but no longer different: {known}" for known in self.outdated()]
        lines.append(f"{len(self.results)} drivers, {len(self.differences)} differences, {len(self.unexplained())} unexplained")
        return "\n".join(lines)

    def as_json(self):
        return {"drivers": self.results, "differences": self.differences}

    def page(self):
        places = list(next(iter(self.results.values())))
        rows = [["driver", "version", "cases", *places, "differences"], ["---"] * 3 + ["--:"] * len(places) + ["--:"]]
        for driver, at in self.results.items():
            passed = [sum(case["outcome"] == "passed" for case in at[place]["cases"].values()) for place in places]
            differences = sum(found["driver"] == driver for found in self.differences)
            cases = len(at[DIRECT]["cases"])
            rows.append([driver, at[DIRECT]["version"], cases, *passed, differences or "none"])
        table = "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)
        return f"{INTRODUCTION}\n{table}\n{self._explanations()}{self._fails_everywhere()}"

    def _explanations(self):
        used = [known for number, known in enumerate(self.explained) if number in self.used or known.get("sometimes")]
        lines = [f"- {', '.join(known['drivers'])} ({', '.join(known['places'])}): {', '.join(map(_code, known['cases']))}. "
                 f"{known['why']}\n" for known in used]
        return "\n## What differs, and why\n\n" + ("".join(lines) or "Nothing.\n")

    def _fails_everywhere(self):
        lines = []
        for driver, at in self.results.items():
            failed = [case for case, how in at[DIRECT]["cases"].items() if how["outcome"] == "failed"]
            if failed:
                named = ", ".join(map(_code, failed)) if len(failed) <= CASES_NAMED_MAX else f"{len(failed)} of its cases"
                lines.append(f"- {driver}: {named}\n")
        return "\n## What fails directly, too\n\n" + "".join(lines) if lines else ""


def _difference(direct, here):
    if direct is None or here is None:
        return "it ran in one place only"
    if direct["outcome"] != here["outcome"]:
        return f"{direct['outcome']} directly, {here['outcome']} here: {(here if here['outcome'] != 'passed' else direct)['detail']}"
    if direct.get("seen") != here.get("seen"):
        return f"another answer: {_first_difference(direct.get('seen'), here.get('seen'))}"
    return None


def _first_difference(direct, here):
    for one, other in zip(str(direct).splitlines(), str(here).splitlines()):
        if one != other:
            return f"{one!r} directly, {other!r} here"
    return "one is longer"


def _code(text):
    return f"`{text}`"
