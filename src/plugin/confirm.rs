//! Typed confirmations.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

/// Why nothing was confirmed.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    /// Something else was typed.
    #[error("that is not `{0}`: nothing was done")]
    Differs(String),
    /// Nobody there to type.
    #[error("there is no terminal to type `{0}` into: confirm with {1}")]
    NoTerminal(String, String),
    /// The terminal broke.
    #[error("cannot read from the terminal")]
    Terminal(#[source] std::io::Error),
}

/// Has the user type `word`, unless `given` (from `flag`) says it already. A blind `y` from habit
/// or from a script must not be enough for what cannot be taken back.
///
/// # Errors
/// [`ConfirmError`]: nothing may be done then.
pub fn typed(question: &str, word: &str, given: Option<&str>, flag: &str) -> Result<(), ConfirmError> {
    if let Some(given) = given {
        return same(given, word);
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(ConfirmError::NoTerminal(word.to_owned(), flag.to_owned()));
    }
    eprint!("{question} Type `{word}` to go on: ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    stdin.lock().read_line(&mut line).map_err(ConfirmError::Terminal)?;
    same(line.trim(), word)
}

fn same(given: &str, word: &str) -> Result<(), ConfirmError> {
    if given == word { Ok(()) } else { Err(ConfirmError::Differs(word.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_word_confirms() {
        assert!(typed("", "register", Some("register"), "--confirm").is_ok());
        for other in ["", "y", "yes", "Register", "register2"] {
            assert!(typed("", "register", Some(other), "--confirm").is_err(), "{other}");
        }
    }
}
