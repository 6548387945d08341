//! Which colour means what?
//!
//! Colour never carries a meaning alone: with `NO_COLOR` everything can still be read.

use ratatui::style::{Color, Modifier, Style};

use crate::demo::scene::{Health, Tone};

const REGIONS: [Color; 6] =
    [Color::Cyan, Color::Magenta, Color::Yellow, Color::Blue, Color::LightGreen, Color::LightRed];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Palette {
    Colours,
    Plain,
}

impl Palette {
    /// Plain when `NO_COLOR` is set to anything.
    pub(super) fn of_environment() -> Self {
        match std::env::var_os("NO_COLOR") {
            Some(value) if !value.is_empty() => Self::Plain,
            _ => Self::Colours,
        }
    }

    fn colour(self, colour: Color) -> Style {
        match self {
            Self::Colours => Style::new().fg(colour),
            Self::Plain => Style::new(),
        }
    }

    pub(super) fn region(self, index: usize) -> Style {
        self.colour(REGIONS[index % REGIONS.len()])
    }

    /// A block filled with the owner's colour, or reversed text where there is none.
    pub(super) fn owner(self, index: Option<usize>) -> Style {
        match (self, index) {
            (Self::Colours, Some(index)) => {
                Style::new().fg(Color::Black).bg(REGIONS[index % REGIONS.len()])
            }
            (Self::Colours, None) => Style::new().fg(Color::White).bg(Color::Red),
            (Self::Plain, Some(_)) => Style::new().add_modifier(Modifier::REVERSED),
            (Self::Plain, None) => Style::new(),
        }
    }

    pub(super) fn health(self, health: Health) -> Style {
        match health {
            Health::Building => self.colour(Color::Gray),
            Health::Up => self.colour(Color::Green),
            Health::Joining => self.colour(Color::Yellow),
            Health::Down => self.colour(Color::Red).add_modifier(Modifier::BOLD),
        }
    }

    pub(super) fn tone(self, tone: Tone) -> Style {
        match tone {
            Tone::Plain => Style::new(),
            Tone::Good => self.colour(Color::Green),
            Tone::Bad => self.colour(Color::Red).add_modifier(Modifier::BOLD),
            Tone::Deed => self.colour(Color::Yellow),
        }
    }

    pub(super) fn quiet(self) -> Style {
        self.colour(Color::DarkGray)
    }

    /// Green while small, red where a person would worry.
    pub(super) fn age(self, ms: u64) -> Style {
        match ms {
            0..500 => self.colour(Color::Green),
            500..3000 => self.colour(Color::Yellow),
            _ => self.colour(Color::Red),
        }
    }
}
