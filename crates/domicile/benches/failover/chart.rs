//! The figures as a picture: how long were writes not answered?
//!
//! One bar for the median of each contender's failovers, with a mark at its p99; logarithmic, since
//! seconds stand beside half a minute.

use std::fmt::Write as _;

use crate::report::Report;

const WIDTH: u32 = 870;
const LEFT: u32 = 150;
/// Room for what is written behind the longest bar.
const RIGHT: u32 = 320;
const TOP: u32 = 56;
const BAR: u32 = 18;
const STEP: u32 = 34;
const BOTTOM: u32 = 30;
/// Where the axis begins and ends.
const SHORTEST_MS: f64 = 10.0;
const LONGEST_MS: f64 = 100_000.0;

const OURS: &str = "#0f766e";
const PATRONI: &str = "#b8a27a";
const INK: &str = "#1f2933";
const FAINT: &str = "#7b8794";

/// Draws what was measured; what was not is left out.
pub fn svg(report: &Report) -> String {
    let across = |ms: f64| {
        let part = (ms.max(SHORTEST_MS) / SHORTEST_MS).ln() / (LONGEST_MS / SHORTEST_MS).ln();
        f64::from(LEFT) + part.min(1.0) * f64::from(WIDTH - LEFT - RIGHT)
    };
    let (mut body, mut y) = (String::new(), TOP);
    for (name, figures) in report.figures() {
        let colour = if name.words().starts_with("ours") { OURS } else { PATRONI };
        let (p50, p99) = (figures.rto_p50_ms as f64, figures.rto_p99_ms as f64);
        let middle = y + BAR * 3 / 4;
        text(&mut body, f64::from(LEFT - 8), middle, "end", INK, name.words());
        let width = across(p50) - f64::from(LEFT);
        let _ = writeln!(
            body,
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
             <rect x=\"{:.1}\" y=\"{y}\" width=\"2\" height=\"{BAR}\" fill=\"{INK}\"/>",
            across(p99) - 1.0
        );
        let lost = match figures.lost_acknowledged {
            0 => "nothing lost".to_owned(),
            lost => format!("{lost} acknowledged writes lost"),
        };
        let words = format!("{:.1} s, p99 {:.1} s; {lost}", p50 / 1000.0, p99 / 1000.0);
        text(&mut body, across(p99.max(p50)) + 8.0, middle, "start", FAINT, &words);
        y += STEP;
    }
    let height = y + BOTTOM;
    for ms in [10.0, 100.0, 1_000.0, 10_000.0, 100_000.0] {
        let x = across(ms);
        let _ = writeln!(
            body,
            "<line x1=\"{x:.1}\" y1=\"{}\" x2=\"{x:.1}\" y2=\"{y}\" stroke=\"{FAINT}\" \
             stroke-opacity=\"0.3\"/>",
            TOP - 8
        );
        text(&mut body, x, y + 16, "middle", FAINT, &format!("{} s", ms / 1000.0));
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"26\" fill=\"{INK}\" font-size=\"15\" font-weight=\"600\">From the last \
         acknowledged write to the next, when the server that takes them is killed</text>\n{body}</svg>\n"
    )
}

fn text(body: &mut String, x: f64, y: u32, anchor: &str, colour: &str, words: &str) {
    let _ = writeln!(
        body,
        "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>"
    );
}
