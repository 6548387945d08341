//! How does the demo take over the terminal, and give it back whatever happens?
//!
//! A thread of its own draws the latest picture and reads keys: drawing is blocking work.
//! Invariant: the terminal is as it was when [`Screen`] is dropped, and after a panic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::watch;

use super::scene::Scene;

mod draw;
mod palette;
mod panels;
#[cfg(test)]
mod tests;

use palette::Palette;

const FRAME: Duration = Duration::from_millis(100);

/// The terminal while the demo has it.
pub(super) struct Screen {
    drawing: Option<JoinHandle<()>>,
    close: Arc<AtomicBool>,
    quit: watch::Receiver<bool>,
}

impl Screen {
    pub(super) fn open(scene: watch::Receiver<Scene>) -> std::io::Result<Self> {
        // Installs a panic hook that restores the terminal, too.
        let terminal = ratatui::try_init()?;
        let close = Arc::new(AtomicBool::new(false));
        let (pressed, quit) = watch::channel(false);
        let closing = close.clone();
        let drawing = std::thread::Builder::new().name("screen".to_owned()).spawn(move || {
            if let Err(error) = show(terminal, &scene, &closing, &pressed) {
                tracing::debug!(%error, "the screen ended");
            }
            ratatui::restore();
            // A terminal that cannot be drawn on ends the demo as the key does.
            pressed.send_replace(true);
        })?;
        Ok(Self { drawing: Some(drawing), close, quit })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.close.store(true, Ordering::Relaxed);
        if let Some(drawing) = self.drawing.take() {
            let _ = drawing.join();
        }
    }
}

/// Returns when somebody asks to quit; never without a screen.
pub(super) async fn quit(screen: &mut Option<Screen>) {
    match screen {
        Some(screen) => drop(screen.quit.wait_for(|pressed| *pressed).await),
        None => std::future::pending().await,
    }
}

fn show(
    mut terminal: DefaultTerminal,
    scene: &watch::Receiver<Scene>,
    close: &AtomicBool,
    pressed: &watch::Sender<bool>,
) -> std::io::Result<()> {
    let palette = Palette::of_environment();
    while !close.load(Ordering::Relaxed) {
        let scene = scene.borrow().clone();
        terminal.draw(|frame| draw::draw(frame, &scene, palette))?;
        if event::poll(FRAME)? && asks_to_quit(&event::read()?) {
            pressed.send_replace(true);
        }
    }
    Ok(())
}

fn asks_to_quit(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    let quit = matches!(key.code, KeyCode::Char('q') | KeyCode::Esc);
    key.kind == KeyEventKind::Press && (control_c || quit)
}
