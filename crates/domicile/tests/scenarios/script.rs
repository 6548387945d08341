//! How is a scenario written down?
//!
//! As SQL, in the files beside this one, so that a new one needs no compiler:
//!
//! ```sql
//! --- 36: texts of many scripts           a scenario: its numbers, what must hold
//! -- since PostgreSQL 15:                 where it is tried; also `before`
//! -- tables: texts, notes (local)         what the configuration lists for it
//! -- first both:                          before there are agents
//! CREATE TABLE texts (id int PRIMARY KEY, t text);
//! -- eu:                                  then, step by step, as the owner's application
//! INSERT INTO texts VALUES (1, 'سلام');
//! ```
//!
//! The steps are the variants of [`Step`]. Every scenario ends alike: see `World::run`.

use std::ops::Range;
use std::path::Path;

/// One scenario of a file.
#[derive(Debug)]
pub struct Case {
    /// The file's name without its ending.
    pub part: String,
    /// As in `C36`.
    pub numbers: Vec<String>,
    /// What must hold.
    pub title: String,
    /// The major versions of PostgreSQL that it is tried with.
    pub majors: Range<u32>,
    /// What the configuration lists: name, and kind when it is not `owned`.
    pub tables: Vec<(String, Option<String>)>,
    pub first: Vec<(Place, String)>,
    pub steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Eu,
    Us,
    Both,
}

#[derive(Debug)]
pub enum Step {
    /// `-- eu:` runs; several statements are one transaction, as a client's simple query is.
    Run { at: Place, sql: String },
    /// `-- us behind the guard:` runs as what the applier has written.
    Behind { at: Place, sql: String },
    /// `-- eu refuses 55000:` the statement fails with this SQLSTATE.
    Refuses { at: Place, sqlstate: String, sql: String },
    /// `-- us shows:` sooner or later the query says true.
    Shows { at: Place, sql: String },
    /// `-- us says schema_behind:` sooner or later the status has this condition.
    Says { at: Place, condition: String },
    /// `-- us is done with schema_behind:` and sooner or later it has not.
    Done { at: Place, condition: String },
    /// `-- us journals 1 apply_error:` so many entries, all in all.
    Journals { at: Place, count: usize, conflict: String },
    /// `-- alike:` both regions show the same rows, here and not only at the end.
    Alike,
}

impl Place {
    pub fn regions(self) -> &'static [&'static str] {
        match self {
            Self::Eu => &["eu"],
            Self::Us => &["us"],
            Self::Both => &["eu", "us"],
        }
    }

    fn parse(word: &str) -> Option<Self> {
        match word {
            "eu" => Some(Self::Eu),
            "us" => Some(Self::Us),
            "both" => Some(Self::Both),
            _ => None,
        }
    }
}

/// Reads every scenario there is, in the order of the files' names.
pub fn all() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|e| e == "sql")).collect();
    files.sort();
    files.iter().flat_map(|file| read(file)).collect()
}

fn read(file: &Path) -> Vec<Case> {
    let part = file.file_stem().unwrap().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(file).unwrap();
    let mut cases: Vec<Case> = Vec::new();
    let mut open: Option<Directive> = None;
    let mut sql = String::new();
    for (line, number) in text.lines().zip(1..) {
        let wrong = || -> ! { panic!("{}, line {number}: {line}", file.display()) };
        if let Some(head) = line.strip_prefix("--- ") {
            close(&mut cases, open.take(), &mut sql);
            let Some((numbers, title)) = head.split_once(": ") else { wrong() };
            let numbers = numbers.split(", ").map(str::to_owned).collect();
            let (part, title) = (part.clone(), title.to_owned());
            let (tables, first, steps) = (Vec::new(), Vec::new(), Vec::new());
            let majors = 0..u32::MAX;
            cases.push(Case { part, numbers, title, majors, tables, first, steps });
        } else if let Some(directive) = line.strip_prefix("-- ").and_then(Directive::parse) {
            close(&mut cases, open.take(), &mut sql);
            open = Some(directive);
        } else if open.is_some() {
            sql.push_str(line);
            sql.push('\n');
        } else if !(line.trim().is_empty() || line.starts_with("-- ")) {
            wrong()
        }
    }
    close(&mut cases, open, &mut sql);
    cases
}

enum Directive {
    Since(u32),
    Before(u32),
    Tables(Vec<(String, Option<String>)>),
    First(Place),
    Run(Place),
    Behind(Place),
    Refuses(Place, String),
    Shows(Place),
    Says(Place, String),
    Done(Place, String),
    Journals(Place, usize, String),
    Alike,
}

impl Directive {
    /// A comment that is none of these is a comment.
    fn parse(comment: &str) -> Option<Self> {
        if let Some(names) = comment.strip_prefix("tables: ") {
            return Some(Self::Tables(names.split(", ").map(table).collect()));
        }
        let words: Vec<&str> = comment.strip_suffix(':')?.split(' ').collect();
        match words.as_slice() {
            ["since", "PostgreSQL", major] => Some(Self::Since(major.parse().ok()?)),
            ["before", "PostgreSQL", major] => Some(Self::Before(major.parse().ok()?)),
            ["alike"] => Some(Self::Alike),
            ["first", at] => Some(Self::First(Place::parse(at)?)),
            [at] => Some(Self::Run(Place::parse(at)?)),
            [at, "behind", "the", "guard"] => Some(Self::Behind(Place::parse(at)?)),
            [at, "shows"] => Some(Self::Shows(Place::parse(at)?)),
            [at, "refuses", code] => Some(Self::Refuses(Place::parse(at)?, (*code).to_owned())),
            [at, "says", name] => Some(Self::Says(Place::parse(at)?, (*name).to_owned())),
            [at, "is", "done", "with", name] => {
                Some(Self::Done(Place::parse(at)?, (*name).to_owned()))
            }
            [at, "journals", count, name] => {
                Some(Self::Journals(Place::parse(at)?, count.parse().ok()?, (*name).to_owned()))
            }
            _ => None,
        }
    }
}

/// `name` or `name (kind)`.
fn table(text: &str) -> (String, Option<String>) {
    match text.strip_suffix(')').and_then(|text| text.split_once(" (")) {
        Some((name, kind)) => (name.to_owned(), Some(kind.to_owned())),
        None => (text.to_owned(), None),
    }
}

/// Gives the SQL that stood below a directive to the scenario it stands in.
fn close(cases: &mut [Case], directive: Option<Directive>, sql: &mut String) {
    let sql = std::mem::take(sql).trim().to_owned();
    let Some(directive) = directive else { return };
    let case = cases.last_mut().expect("a directive stands in a scenario");
    match directive {
        Directive::Since(major) => case.majors.start = major,
        Directive::Before(major) => case.majors.end = major,
        Directive::Tables(tables) => case.tables.extend(tables),
        Directive::First(at) => case.first.push((at, sql)),
        Directive::Run(at) => case.steps.push(Step::Run { at, sql }),
        Directive::Behind(at) => case.steps.push(Step::Behind { at, sql }),
        Directive::Refuses(at, sqlstate) => case.steps.push(Step::Refuses { at, sqlstate, sql }),
        Directive::Shows(at) => case.steps.push(Step::Shows { at, sql }),
        Directive::Says(at, condition) => case.steps.push(Step::Says { at, condition }),
        Directive::Done(at, condition) => case.steps.push(Step::Done { at, condition }),
        Directive::Journals(at, count, conflict) => {
            case.steps.push(Step::Journals { at, count, conflict });
        }
        Directive::Alike => case.steps.push(Step::Alike),
    }
}
