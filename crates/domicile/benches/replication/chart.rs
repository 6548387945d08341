//! The catch-up figures as a picture: how many times as fast as native replication?
//!
//! One group of bars per workload; native replication is the line at 1.

use std::fmt::Write as _;

use crate::group::{Backlog, System};
use crate::report::Figures;

const WIDTH: u32 = 760;
const LEFT: u32 = 190;
/// Room for what is written behind the longest bar.
const RIGHT: u32 = 130;
const TOP: u32 = 64;
const BAR: u32 = 16;
const GAP: u32 = 22;
const BOTTOM: u32 = 34;

const OURS: &str = "#0f766e";
const OURS_AGENT_DOWN: &str = "#5eada5";
const PGLOGICAL: &str = "#b8a27a";
const INK: &str = "#1f2933";
const FAINT: &str = "#7b8794";

struct Bar {
    label: String,
    /// Times as fast as native.
    speed: f64,
    seconds: f64,
    colour: &'static str,
}

struct Group {
    name: &'static str,
    bars: Vec<Bar>,
}

/// Draws what was measured; what was not is left out.
pub fn svg(figures: &[Figures], machine: &str) -> String {
    let groups = groups(figures);
    let longest =
        groups.iter().flat_map(|group| &group.bars).map(|bar| bar.speed).fold(1.0, f64::max).ceil();
    let scale = f64::from(WIDTH - LEFT - RIGHT) / longest;
    let across = |speed: f64| f64::from(LEFT) + speed * scale;

    let mut body = String::new();
    let mut y = TOP;
    for group in &groups {
        text(
            &mut body,
            16,
            y + BAR,
            "start",
            INK,
            &format!("<tspan font-weight=\"600\">{}</tspan>", group.name),
        );
        for bar in &group.bars {
            let middle = y + BAR * 3 / 4;
            text(&mut body, LEFT - 8, middle, "end", FAINT, &bar.label);
            let _ = writeln!(
                body,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" rx=\"2\" fill=\"{}\"/>",
                bar.speed * scale,
                BAR - 3,
                bar.colour
            );
            let behind = (across(bar.speed) + 6.0) as u32;
            text(
                &mut body,
                behind,
                middle,
                "start",
                INK,
                &format!("{:.1} x ({:.1} s)", bar.speed, bar.seconds),
            );
            y += BAR;
        }
        y += GAP;
    }
    let height = y + BOTTOM;
    let mut lines = String::new();
    for at in 0..=longest as u32 {
        let (x, strength) = (across(f64::from(at)), if at == 1 { INK } else { "#e4e7eb" });
        let _ = writeln!(
            lines,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{}\" stroke=\"{strength}\"/>",
            TOP - 8,
            y - GAP + 6
        );
        text(&mut lines, x as u32, y + 4, "middle", FAINT, &format!("{at} x"));
    }
    let title = "Draining a backlog, native logical replication = 1";
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"15\" font-weight=\"600\" fill=\"{INK}\">{title}</text>\n\
         <text x=\"16\" y=\"44\" fill=\"{FAINT}\">{machine}; longer is faster</text>\n\
         {lines}{body}</svg>\n"
    )
}

fn text(into: &mut String, x: u32, y: u32, anchor: &str, colour: &str, words: &str) {
    let _ = writeln!(
        into,
        "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>"
    );
}

fn groups(figures: &[Figures]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for figures in figures {
        let bar = |system, label: String, colour| {
            let (native, seconds) = (figures.seconds(System::Native)?, figures.seconds(system)?);
            Some(Bar { label, speed: native / seconds, seconds, colour })
        };
        let ours = |colour| bar(System::Ours, format!("ours, {}", figures.backlog.words()), colour);
        let mut bars: Vec<Bar> = match figures.backlog {
            Backlog::PeerDown => ours(OURS).into_iter().collect(),
            Backlog::AgentDown => {
                let pglogical = bar(System::Pglogical, "pglogical".to_owned(), PGLOGICAL);
                ours(OURS_AGENT_DOWN).into_iter().chain(pglogical).collect()
            }
        };
        match groups.iter_mut().find(|group| group.name == figures.name) {
            Some(group) => group.bars.append(&mut bars),
            None => groups.push(Group { name: figures.name, bars }),
        }
    }
    groups
}
