//! Errors in one line. Owns the one way in which every program of this workspace prints an error and its causes; it
//! must never drop a cause that the text before it does not already contain.

use std::error::Error;

/// `error` and its causes in one line, as `error: cause: cause`. A cause that the text before it already contains is
/// left out.
#[must_use]
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn a_cause_is_printed_once() {
        let layer = |text, source: Option<Layer>| Layer { text, source: source.map(Box::new) };
        let chain = layer("cannot read x", Some(layer("opening", Some(layer("disk gone", None)))));
        assert_eq!(error_chain(&chain), "cannot read x: opening: disk gone");
        assert_eq!(error_chain(&layer("failed: disk gone", Some(layer("disk gone", None)))), "failed: disk gone");
    }
}
