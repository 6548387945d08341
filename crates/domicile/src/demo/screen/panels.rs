//! What does each part of the screen say?

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table};

use super::palette::Palette;
use crate::demo::scene::{Event, Health, RegionView, Scene};
use crate::status::PeerStatus;

/// One cell for each partition, in the colour of its owner.
pub(super) fn owners(frame: &mut Frame, area: Rect, scene: &Scene, palette: Palette) {
    let block = Block::bordered().title(" who may write each partition ");
    let inner = block.inner(area);
    let width = usize::from(inner.width) / scene.owners.len().max(1);
    let cell = |owner: &Option<usize>| {
        let name = owner.and_then(|index| scene.regions.get(index)).map_or("--", |r| &r.name);
        let text = match width {
            0 | 1 => format!("{name:.1}"),
            // A gap between cells, so that they can be counted.
            _ => format!("{name:^width$.width$}", width = (width - 1).clamp(1, 12)),
        };
        let gap = if width > 1 { " " } else { "" };
        [Span::styled(text, palette.owner(*owner)), Span::raw(gap)]
    };
    let line = Line::from(scene.owners.iter().flat_map(cell).collect::<Vec<_>>());
    frame.render_widget(Paragraph::new(line).block(block), area);
}

pub(super) fn region(frame: &mut Frame, area: Rect, scene: &Scene, index: usize, palette: Palette) {
    let view = &scene.regions[index];
    let (mark, word) = match view.health {
        Health::Building => ("○", "starting"),
        Health::Up => ("●", "up"),
        Health::Joining => ("◐", "joining"),
        Health::Down => ("✗", "DOWN"),
    };
    let title = Line::from(vec![
        Span::styled(
            format!(" {} ", view.name),
            palette.region(index).add_modifier(Modifier::BOLD),
        ),
        Span::styled(format!("{mark} {word} "), palette.health(view.health)),
    ]);
    let border = match view.health {
        Health::Down => palette.health(Health::Down),
        _ => palette.region(index),
    };
    let block = Block::bordered().title(title).border_style(border);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let [text, spark] = Layout::vertical([Constraint::Length(3), Constraint::Min(1)]).areas(inner);
    let owned = scene.owners.iter().filter(|owner| **owner == Some(index)).count();
    let lines = vec![
        Line::from(format!("owns {owned} of {}", scene.owners.len())),
        Line::from(format!("{} writes/s", view.rate())),
        Line::styled(state_of(view), palette.quiet()),
    ];
    frame.render_widget(Paragraph::new(lines), text);
    let shown = usize::from(spark.width);
    let rates: Vec<u64> =
        view.rates.iter().skip(view.rates.len().saturating_sub(shown)).copied().collect();
    frame.render_widget(Sparkline::default().data(rates).style(palette.region(index)), spark);
}

/// What else is worth a line, the most telling first.
fn state_of(view: &RegionView) -> String {
    let Some(status) = &view.status else { return "no answer".to_owned() };
    if !status.postgres_reachable {
        return "waits for PostgreSQL".to_owned();
    }
    let entries = status.journal_entries;
    match (status.repairs_pending, status.lease_live) {
        (0, true) if entries == 0 => "lease live".to_owned(),
        (0, true) => format!("lease live, journal {entries}"),
        (0, false) => "no lease".to_owned(),
        (rows, _) => format!("repairs {rows}, journal {entries}"),
    }
}

/// Row: whose log. Column: how far it is there.
pub(super) fn links(frame: &mut Frame, area: Rect, scene: &Scene, palette: Palette) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let header = scene.regions.iter().map(|to| Cell::from(format!("in {}", to.name)));
    let header = Row::new([Cell::from("log of")].into_iter().chain(header)).style(bold);
    let rows = scene.regions.iter().enumerate().map(|(index, from)| {
        let name = Cell::from(Span::styled(from.name.clone(), palette.region(index)));
        let cells = scene.regions.iter().map(|to| Cell::from(link(from, to, palette)));
        Row::new([name].into_iter().chain(cells))
    });
    let widths = [Constraint::Length(7)]
        .into_iter()
        .chain(scene.regions.iter().map(|_| Constraint::Fill(1)));
    let title = " links: exposure / staleness, lag ";
    let table = Table::new(rows, widths).header(header).block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

fn link<'a>(from: &RegionView, to: &RegionView, palette: Palette) -> Line<'a> {
    if from.name == to.name {
        return Line::styled("·", palette.quiet());
    }
    let Some(status) = &from.status else { return Line::styled("gone", palette.quiet()) };
    let peer = status.peers.iter().find(|peer| peer.region == to.name);
    let Some(peer) = peer else { return Line::styled("unknown", palette.quiet()) };
    let age = palette.age(peer.exposure_ms.max(peer.staleness_ms));
    if peer.connected {
        Line::styled(distance(peer), age)
    } else {
        Line::styled(format!("cut, {}", time(peer.exposure_ms)), age)
    }
}

fn distance(peer: &PeerStatus) -> String {
    format!("{} / {}, {}", time(peer.exposure_ms), time(peer.staleness_ms), size(peer.lag_bytes))
}

fn time(ms: u64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { format!("{:.1} s", ms as f64 / 1000.0) }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} K", bytes / 1024),
        _ => format!("{} M", bytes / 1_048_576),
    }
}

/// The newest at the bottom, with the totals in the frame.
pub(super) fn events(frame: &mut Frame, area: Rect, scene: &Scene, palette: Palette) {
    let totals = &scene.totals;
    let title = format!(
        " {} writes acknowledged, {} wrong writes refused, {} unknown, {} errors ",
        totals.acknowledged, totals.refused_as_promised, totals.unknown, totals.errors
    );
    let block = Block::bordered().title(title);
    let inner = block.inner(area);
    let (room, width) = (usize::from(inner.height), usize::from(inner.width));
    let newest = &scene.events[scene.events.len().saturating_sub(room)..];
    let lines: Vec<Line> =
        newest.iter().flat_map(|event| event_lines(event, width, palette)).collect();
    let first = lines.len().saturating_sub(room);
    frame.render_widget(Paragraph::new(lines[first..].to_vec()).block(block), area);
}

/// One event in as many lines as it needs.
fn event_lines(event: &Event, width: usize, palette: Palette) -> Vec<Line<'static>> {
    let time = format!("{:>6.1} s  ", event.at.0 as f64 / 1000.0);
    let margin = time.len();
    let mut texts = vec![String::new()];
    for word in event.text.split_inclusive(' ') {
        let full = texts.last().is_some_and(|line| {
            !line.is_empty() && margin + line.chars().count() + word.trim_end().len() > width
        });
        if full {
            texts.push("    ".to_owned());
        }
        if let Some(line) = texts.last_mut() {
            line.push_str(word);
        }
    }
    let margins = [time].into_iter().chain(std::iter::repeat(" ".repeat(margin)));
    let line = |(margin, text): (String, String)| {
        Line::from(vec![
            Span::styled(margin, palette.quiet()),
            Span::styled(text, palette.tone(event.tone)),
        ])
    };
    margins.zip(texts).map(line).collect()
}
