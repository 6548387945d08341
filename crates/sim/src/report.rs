//! What did failovers cost, as a table, for a machine, and as a picture?

use std::fmt::Write as _;

use crate::world::{Cost, Deal, Failover};

const HEAD: &str = "\
| regions | partitions | ranges | first write, ms | ended, ms | messages of the run | reads | every day | documents | their bytes |
| --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |
";

/// One line for each, as in Markdown.
pub fn table(costs: &[Cost]) -> String {
    costs.iter().fold(HEAD.to_owned(), |text, cost| text + &line(cost) + "\n")
}

fn line(cost: &Cost) -> String {
    let Cost { shape, ranges, bytes_before, failover } = cost;
    let (regions, partitions) = (shape.regions, shape.partitions);
    let partitions = match shape.deal {
        Deal::Together => partitions.to_string(),
        Deal::Alternating => format!("{partitions}, alternating"),
    };
    let Some(failover) = failover else {
        return format!(
            "| {regions} | {partitions} | {ranges} | refused: {bytes_before} bytes before | | | | | | |"
        );
    };
    let Failover { first_write_ms, ended_ms, messages, every_day, reads, .. } = failover;
    let Failover { documents, document_bytes, .. } = failover;
    format!(
        "| {regions} | {partitions} | {ranges} | {first_write_ms} | {ended_ms} | {messages} | {reads} \
         | {every_day} | {documents} | {document_bytes} |"
    )
}

/// One object for each, in a list.
pub fn json(costs: &[Cost]) -> String {
    let objects: Vec<String> = costs.iter().map(object).collect();
    format!("[\n{}\n]\n", objects.join(",\n"))
}

fn object(cost: &Cost) -> String {
    let Cost { shape, ranges, bytes_before, failover } = cost;
    let alternating = shape.deal == Deal::Alternating;
    let mut text = format!(
        "  {{\"regions\": {}, \"partitions\": {}, \"alternating\": {alternating}, \
         \"ranges\": {ranges}, \"bytes_before\": {bytes_before}, \"failover\": ",
        shape.regions, shape.partitions
    );
    let _ = match failover {
        None => write!(text, "null}}"),
        Some(failover) => write!(
            text,
            "{{\"first_write_ms\": {}, \"ended_ms\": {}, \"runs\": {}, \"messages\": {}, \
             \"every_day\": {}, \"reads\": {}, \"documents\": {}, \"document_bytes\": {}}}}}",
            failover.first_write_ms,
            failover.ended_ms,
            failover.runs,
            failover.messages,
            failover.every_day,
            failover.reads,
            failover.documents,
            failover.document_bytes
        ),
    };
    text
}

/// What is drawn of a failover where partitions stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub regions: u32,
    pub partitions: u32,
    pub first_write_ms: u64,
    pub messages: u64,
}

impl Row {
    pub fn of(cost: &Cost) -> Option<Self> {
        Self::parse(&line(cost))
    }

    /// Reads a line of [`table`]; `None` when it is none, or tells of partitions that are scattered.
    pub fn parse(line: &str) -> Option<Self> {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let number = |i: usize| cells.get(i)?.parse::<u64>().ok();
        Some(Self {
            regions: u32::try_from(number(1)?).ok()?,
            partitions: u32::try_from(number(2)?).ok()?,
            first_write_ms: number(4)?,
            messages: number(6)?,
        })
    }
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 40.0;
const PANEL: f64 = 290.0;
const INK: &str = "#1f2933";
const FAINT: &str = "#7b8794";
const COLOURS: [&str; 4] = ["#0f766e", "#b45309", "#1d4ed8", "#9d174d"];

/// Draws two curves over the number of regions, one line for each number of partitions.
pub fn svg(rows: &[Row]) -> String {
    let mut partitions: Vec<u32> = rows.iter().map(|row| row.partitions).collect();
    partitions.sort_unstable();
    partitions.dedup();
    let mut body = String::new();
    panel(&mut body, "Messages of the run", 70.0, rows, &partitions, |row| row.messages);
    let title = "From the loss to the first write, ms";
    panel(&mut body, title, 440.0, rows, &partitions, |row| row.first_write_ms);
    for (i, count) in partitions.iter().enumerate() {
        let (x, colour) = (70.0 + 160.0 * i as f64, COLOURS[i % COLOURS.len()]);
        text(&mut body, x, HEIGHT - 4.0, "start", colour, &format!("{count} partitions"));
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"The cost of one region's failover\" font-family=\"system-ui, sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"24\" fill=\"{INK}\" font-size=\"15\" font-weight=\"600\">One region of \
         several is lost (simulated)</text>\n{body}</svg>\n"
    )
}

fn panel(
    body: &mut String,
    title: &str,
    left: f64,
    rows: &[Row],
    partitions: &[u32],
    value: fn(&Row) -> u64,
) {
    let widest = rows.iter().map(|row| row.regions).max().unwrap_or(1);
    let highest = rows.iter().map(value).max().unwrap_or(1).max(1);
    let bottom = HEIGHT - BOTTOM - 10.0;
    let across = |regions: u32| left + PANEL * f64::from(regions) / f64::from(widest);
    let up = |value: u64| bottom - (bottom - TOP) * value as f64 / highest as f64;
    text(body, left, TOP - 14.0, "start", INK, title);
    for (mark, y) in [(0, bottom), (highest / 2, up(highest / 2)), (highest, up(highest))] {
        let right = left + PANEL;
        let _ = writeln!(
            body,
            "<line x1=\"{left:.1}\" y1=\"{y:.1}\" x2=\"{right:.1}\" y2=\"{y:.1}\" \
             stroke=\"{FAINT}\" stroke-opacity=\"0.3\"/>"
        );
        text(body, left - 6.0, y + 4.0, "end", FAINT, &mark.to_string());
    }
    let mut regions: Vec<u32> = rows.iter().map(|row| row.regions).collect();
    regions.sort_unstable();
    regions.dedup();
    for count in regions {
        text(body, across(count), bottom + 16.0, "middle", FAINT, &count.to_string());
    }
    for (i, count) in partitions.iter().enumerate() {
        let line = rows.iter().filter(|row| row.partitions == *count);
        let points = line.map(|row| format!("{:.1},{:.1}", across(row.regions), up(value(row))));
        let (points, colour) = (points.collect::<Vec<_>>().join(" "), COLOURS[i % COLOURS.len()]);
        // Thinner from one to the next, so that lines which coincide are all seen.
        let stroke = 7 - 2 * (i % COLOURS.len()).min(3);
        let _ = writeln!(
            body,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" \
             stroke-width=\"{stroke}\"/>"
        );
    }
}

fn text(body: &mut String, x: f64, y: f64, anchor: &str, colour: &str, words: &str) {
    let _ = writeln!(
        body,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>"
    );
}
