//! How does a command print: text or JSON, with or without colours?
//!
//! Results go to standard output, everything else to standard error. A reader that goes away
//! (`domicile journal list | head`) ends the output, not the command.

use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Text is wrapped at this width when nobody says how wide the terminal is.
const WIDTH_DEFAULT: u16 = 120;
const SPINNER_TICK: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    colour: bool,
}

impl Output {
    pub fn new(json: bool) -> Self {
        Self { json, colour: colour_wanted(std::io::stdout().is_terminal()) }
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    pub fn print_json<T: Serialize>(&self, value: &T) -> anyhow::Result<()> {
        print_text(&format!("{}\n", serde_json::to_string_pretty(value)?))
    }

    pub fn print(&self, text: &str) -> anyhow::Result<()> {
        print_text(&format!("{text}\n"))
    }

    /// A table without lines, as wide as the terminal.
    pub fn table<const N: usize>(&self, header: [&str; N]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        if table.width().is_none() {
            table.set_width(WIDTH_DEFAULT);
        }
        let cells = header.map(|name| {
            let cell = Cell::new(name);
            if self.colour { cell.add_attribute(Attribute::Dim) } else { cell }
        });
        table.set_header(cells);
        table
    }

    pub fn cell(&self, text: &str, colour: Color) -> Cell {
        let cell = Cell::new(text);
        if self.colour { cell.fg(colour) } else { cell }
    }

    /// Shows that something goes on; silent unless standard error is a terminal.
    pub fn spinner(&self, message: &str) -> ProgressBar {
        let spinner = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            spinner.set_style(style);
        }
        spinner.set_message(message.to_owned());
        spinner.enable_steady_tick(SPINNER_TICK);
        spinner
    }

    /// Shows how far rows are, how fast, and how long it may still take; silent unless standard
    /// error is a terminal.
    pub fn bar(&self, message: &str) -> ProgressBar {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template(
            "{spinner} {msg} {bar:30} {human_pos}/{human_len} rows {per_sec} {eta}",
        ) {
            bar.set_style(style);
        }
        bar.set_message(message.to_owned());
        bar.enable_steady_tick(SPINNER_TICK);
        bar
    }
}

/// `NO_COLOR` counts when it is set to anything but the empty text (no-color.org).
pub fn colour_wanted(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

pub fn print_text(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints a table without the spaces that fill its lines.
pub fn trimmed(table: &Table) -> String {
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}
