//! Where on the screen does each thing go?
//!
//! ```text
//! title, time                                           1
//! the story's chapters                                  1
//! owners of all partitions                              3
//! one panel for each region                             7
//! links: how far is whose log elsewhere                 6
//! what happened                                         the rest, 6 on a small terminal
//! ```

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::palette::Palette;
use super::panels;
use crate::demo::scene::{Scene, Tone};
use crate::demo::tally::Phase;

/// The chapters as they are shown, with the phase that begins each.
const CHAPTERS: [(&str, Phase); 5] = [
    ("steady", Phase::Steady),
    ("switchover", Phase::Switchover),
    ("failover", Phase::Failover),
    ("return", Phase::Rejoin),
    ("proof", Phase::Proof),
];

pub(super) fn draw(frame: &mut Frame, scene: &Scene, palette: Palette) {
    let regions = u16::try_from(scene.regions.len()).unwrap_or(3);
    let [title, chapters, owners, panels, links, events] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(3),
        Constraint::Length(7),
        Constraint::Length(regions + 3),
        Constraint::Min(3),
    ])
    .areas(frame.area());
    draw_title(frame, title, scene, palette);
    draw_chapters(frame, chapters, scene, palette);
    panels::owners(frame, owners, scene, palette);
    let columns = Layout::horizontal(scene.regions.iter().map(|_| Constraint::Fill(1)));
    for (index, area) in columns.split(panels).iter().enumerate() {
        panels::region(frame, *area, scene, index, palette);
    }
    panels::links(frame, links, scene, palette);
    panels::events(frame, events, scene, palette);
}

fn draw_title(frame: &mut Frame, area: Rect, scene: &Scene, palette: Palette) {
    let [left, right] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(18)]).areas(area);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let name = Line::from(vec![
        Span::styled(" Domicile ", bold.patch(palette.region(0))),
        Span::raw(scene.title.clone()),
    ]);
    frame.render_widget(Paragraph::new(name), left);
    let time = format!("{:.0} s, q quits ", scene.at.0 as f64 / 1000.0);
    frame.render_widget(Paragraph::new(time).style(palette.quiet()).right_aligned(), right);
}

fn draw_chapters(frame: &mut Frame, area: Rect, scene: &Scene, palette: Palette) {
    let here = CHAPTERS.iter().rposition(|(_, begins)| scene.phase >= *begins);
    let mut spans = vec![Span::raw(" ")];
    for (index, (name, _)) in CHAPTERS.iter().enumerate() {
        let (mark, style) = match here {
            Some(here) if index < here => ("✓", palette.tone(Tone::Good)),
            Some(here) if index == here => {
                let bold = Style::new().add_modifier(Modifier::BOLD);
                ("▶", bold.patch(palette.tone(Tone::Deed)))
            }
            _ => ("·", palette.quiet()),
        };
        spans.push(Span::styled(format!("{mark} {name}  "), style));
    }
    let seconds = (scene.at.0 - scene.phase_since.0) / 1000;
    spans.push(Span::styled(format!(" {}, {seconds} s", scene.phase.title()), palette.quiet()));
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}
