//! What the pictures share: escaped text and round distances between ticks. It must never compute a number that is
//! reported.

/// `text` as it may stand in a page, a picture or an attribute.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// 1, 2 or 5 times a power of ten, so that about `parts` fit into `whole`.
pub(crate) fn step(whole: f64, parts: f64) -> f64 {
    let power = 10f64.powf((whole / parts).log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0].into_iter().find(|times| whole / (times * power) <= parts + 1.0).unwrap_or(10.0);
    times * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for (whole, by) in [(1.0, 0.2), (0.1, 0.02), (7_698.0, 2000.0), (60.0, 20.0), (3.0, 1.0)] {
            assert!((step(whole, 4.0) - by).abs() < 1e-9, "{whole}: {}", step(whole, 4.0));
        }
        for (whole, by) in [(12_532.0, 2000.0), (560.0, 100.0), (40.0, 10.0), (9e6, 2e6)] {
            assert!((step(whole, 6.0) - by).abs() < 1e-9, "{whole}: {}", step(whole, 6.0));
        }
    }

    #[test]
    fn text_cannot_break_out_of_a_picture() {
        assert_eq!(escaped("<a&b> \"'"), "&lt;a&amp;b&gt; &quot;&#39;");
    }
}
