//! How does a shell learn to complete our commands?

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Exit};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  domicile completions bash > ~/.local/share/bash-completion/completions/domicile
  domicile completions zsh > ~/.zfunc/_domicile
  domicile completions fish > ~/.config/fish/completions/domicile.fish")]
pub struct Completions {
    shell: Shell,
}

impl Completions {
    pub fn run(self) -> anyhow::Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "domicile", &mut script);
        super::output::print_text(&String::from_utf8_lossy(&script))?;
        Ok(Exit::Done)
    }
}
