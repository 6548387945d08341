//! Can a person read the screen, large or small, with and without colours?

use domicile_core::time::Time;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::draw::draw;
use super::*;
use crate::demo::scene::{Event as Told, Health, RegionView, Tone};
use crate::demo::tally::{Phase, Totals};
use crate::status::{PeerStatus, RegionStatus};

/// `us` is lost; its partitions went to `ap`, but for one without an owner yet.
fn scene() -> Scene {
    let peer = |region: &str, connected, exposure_ms| PeerStatus {
        region: region.to_owned(),
        connected,
        exposure_ms,
        staleness_ms: exposure_ms + 20,
        lag_bytes: 4096,
        ..Default::default()
    };
    let status = |peers| RegionStatus {
        postgres_reachable: true,
        lease_live: true,
        journal_entries: 7,
        peers,
        ..Default::default()
    };
    let eu = RegionView {
        health: Health::Up,
        status: Some(status(vec![peer("us", false, 2400), peer("ap", true, 12)])),
        rates: (0..60).collect(),
        ..RegionView::new("eu")
    };
    let us = RegionView { health: Health::Down, ..RegionView::new("us") };
    let ap = RegionView { health: Health::Joining, ..RegionView::new("ap") };
    let owner = |partition: usize| match partition {
        0..4 => Some(0),
        4 => None,
        _ => Some(2),
    };
    Scene {
        at: Time(31_400),
        phase_since: Time(29_000),
        title: "active-active, rpo 0, 40 ms apart".to_owned(),
        phase: Phase::Failover,
        regions: vec![eu, us, ap],
        owners: (0..12).map(owner).collect(),
        totals: Totals { acknowledged: 4711, refused_as_promised: 9, ..Totals::default() },
        events: (0..30)
            .map(|n| Told { at: Time(n * 1000), tone: Tone::Bad, text: format!("event {n}") })
            .collect(),
    }
}

fn render(width: u16, height: u16, scene: &Scene, palette: Palette) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, scene, palette)).unwrap();
    terminal
}

fn text_of(terminal: &Terminal<TestBackend>) -> String {
    terminal.backend().to_string()
}

#[test]
fn a_small_terminal_shows_every_part() {
    let text = text_of(&render(80, 24, &scene(), Palette::Colours));
    for expected in [
        "active-active, rpo 0, 40 ms apart",
        "✓ switchover",
        "▶ failover",
        "· return",
        "us ✗ DOWN",
        "ap ◐ joining",
        "owns 4 of 12",
        "owns 7 of 12",
        "lease live, journal 7",
        "log of",
        "cut, 2.4 s",
        "12 ms / 32 ms, 4 K",
        "4711 writes acknowledged, 9 wrong writes refused",
        "event 29",
        "q quits",
    ] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
}

#[test]
fn a_long_event_goes_on_in_the_next_line() {
    let mut scene = scene();
    let text = format!("begins {}ends", "and goes on ".repeat(8));
    scene.events.push(Told { at: Time(30_000), tone: Tone::Plain, text });
    let text = text_of(&render(80, 24, &scene, Palette::Colours));
    let last: Vec<&str> = text.lines().rev().skip(1).take(2).collect();
    assert!(last[1].contains("30.0 s  begins and goes on"), "{text}");
    assert!(last[0].contains("ends") && !last[0].contains("30.0 s"), "{text}");
}

#[test]
fn each_partition_is_named_and_coloured_after_its_owner() {
    let terminal = render(80, 24, &scene(), Palette::Colours);
    let buffer = terminal.backend().buffer();
    let cells: Vec<Color> = (1..73).step_by(6).map(|x| buffer[(x, 3)].bg).collect();
    assert_eq!(cells[..5], [Color::Cyan, Color::Cyan, Color::Cyan, Color::Cyan, Color::Red]);
    assert!(cells[5..].iter().all(|colour| *colour == Color::Yellow));
}

#[test]
fn without_colours_nothing_is_coloured_and_owners_can_still_be_read() {
    let terminal = render(80, 24, &scene(), Palette::Plain);
    let cells = terminal.backend().buffer().content();
    assert!(cells.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    let text = text_of(&terminal);
    let strip = text.lines().nth(3).unwrap();
    assert_eq!((strip.matches("eu").count(), strip.matches("ap").count()), (4, 7));
}

#[test]
fn any_size_and_any_world_can_be_drawn() {
    let mut large = scene();
    large.owners = vec![Some(1); 500];
    for (width, height) in [(200, 60), (40, 10), (1, 1), (80, 24)] {
        render(width, height, &large, Palette::Colours);
        render(width, height, &Scene::default(), Palette::Plain);
    }
}

#[test]
fn q_escape_and_control_c_quit() {
    let key = |code, modifiers| Event::Key(event::KeyEvent::new(code, modifiers));
    assert!(asks_to_quit(&key(KeyCode::Char('q'), KeyModifiers::NONE)));
    assert!(asks_to_quit(&key(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    assert!(asks_to_quit(&key(KeyCode::Esc, KeyModifiers::NONE)));
    assert!(!asks_to_quit(&key(KeyCode::Char('c'), KeyModifiers::NONE)));
}
