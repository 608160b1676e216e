//! Columns of a line of text, and what a column is: an id, a number that is no id, or a word. Pure: it must never know
//! of files, nor guess what a word means.

use std::borrow::Cow;

/// Integers above this have neighbours that a float cannot tell from them.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// What stands between columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Separator {
    /// One of these, with or without blanks beside it.
    Sign(char),
    /// Any white space.
    Blank,
}

impl Separator {
    /// The separator of a file whose first line of data is `line`: a semicolon, tab or comma outside quotes, else white
    /// space.
    pub(super) fn of(line: &str) -> Self {
        let mut is_quoted = false;
        let signs: Vec<char> = line
            .chars()
            .filter(|&c| {
                is_quoted ^= c == '"';
                !is_quoted && matches!(c, ';' | ',' | '\t')
            })
            .collect();
        // A semicolon leaves the comma to decimals.
        let found = ['\t', ';', ','].into_iter().find(|sign| signs.contains(sign));
        found.map_or(Self::Blank, Self::Sign)
    }

    /// How messages call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sign('\t') => "a tab",
            Self::Sign(';') => "a semicolon",
            Self::Sign(_) => "a comma",
            Self::Blank => "white space",
        }
    }

    /// The columns of `line`, without blanks around them and without quotes.
    pub(super) fn columns(self, line: &str) -> Columns<'_> {
        Columns { rest: Some(line).filter(|line| !line.trim().is_empty()), separator: self }
    }
}

/// Iterator over columns; an error says what is wrong with a quote.
pub(super) struct Columns<'a> {
    rest: Option<&'a str>,
    separator: Separator,
}

impl<'a> Iterator for Columns<'a> {
    type Item = Result<Cow<'a, str>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest?;
        let is_end = |c: char| match self.separator {
            Separator::Sign(sign) => c == sign,
            Separator::Blank => c.is_whitespace(),
        };
        // A tab that separates is no blank.
        let rest = rest.trim_start_matches(|c: char| c.is_whitespace() && !(is_end(c) && self.separator.is_sign()));
        if rest.is_empty() && self.separator == Separator::Blank {
            self.rest = None;
            return None;
        }
        let (column, after) = match rest.strip_prefix('"') {
            None => {
                let end = rest.find(is_end).unwrap_or(rest.len());
                (Ok(Cow::Borrowed(rest[..end].trim())), &rest[end..])
            }
            Some(quoted) => match closing_quote(quoted) {
                None => (Err("a quote that does not end"), ""),
                Some(end) => {
                    let after = quoted[end + 1..].trim_start_matches(|c: char| c.is_whitespace() && !is_end(c));
                    let text = &quoted[..end];
                    let text =
                        if text.contains('"') { Cow::Owned(text.replace("\"\"", "\"")) } else { Cow::Borrowed(text) };
                    if after.is_empty() || after.starts_with(is_end) {
                        (Ok(text), after)
                    } else {
                        (Err("text behind a closing quote"), "")
                    }
                }
            },
        };
        let mut behind = after.chars();
        self.rest = behind.next().map(|_| behind.as_str());
        Some(column)
    }
}

impl Separator {
    fn is_sign(self) -> bool {
        self != Self::Blank
    }
}

/// Where a quoted text ends; two quotes are one of the text.
fn closing_quote(quoted: &str) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + quoted[from..].find('"')?;
        if !quoted[at + 1..].starts_with('"') {
            return Some(at);
        }
        from = at + 2;
    }
}

/// What a column is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A whole number of 0 or more, also written as `3.0` or `3e0`.
    Id(u64),
    /// A whole number below 0.
    Negative(i64),
    /// A number, or nearly one, that is neither.
    Number,
    /// Anything else.
    Word,
}

impl Token {
    pub(super) fn of(text: &str) -> Self {
        if let Ok(id) = text.parse() {
            return Self::Id(id);
        }
        let inner = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')).unwrap_or(text);
        let is_numeric = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | ',' | '_' | 'e' | 'E');
        let is_near = inner.starts_with(|c: char| is_numeric(c) && !matches!(c, 'e' | 'E' | ',' | '_'))
            && inner.chars().all(is_numeric)
            && inner.contains(|c: char| c.is_ascii_digit());
        if !is_near {
            return Self::Word;
        }
        if let Ok(id) = inner.parse() {
            return Self::Id(id);
        }
        match inner.parse::<f64>() {
            Ok(number) if number.fract() == 0.0 && number.abs() < EXACT_MAX => match number as i64 {
                negative @ ..0 => Self::Negative(negative),
                id => Self::Id(id as u64),
            },
            Ok(_) => inner.parse().map_or(Self::Number, Self::Negative),
            // `1,5` and `1_000` are numbers to somebody; `10.0.0.1` and `2026-11-29` are words.
            Err(_) if inner.replace([',', '_'], "").parse::<f64>().is_ok() => Self::Number,
            Err(_) => Self::Word,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn columns(line: &str) -> Vec<String> {
        let separator = Separator::of(line);
        separator.columns(line).map(|column| column.unwrap().into_owned()).collect()
    }

    #[test]
    fn lines_fall_into_columns() {
        let cases: [(&str, &[&str]); 16] = [
            ("0 1", &["0", "1"]),
            ("  0   1  ", &["0", "1"]),
            ("0\t1", &["0", "1"]),
            ("0 , 1", &["0", "1"]),
            ("0;1,5", &["0", "1,5"]),
            ("\"3\",\"4\"", &["3", "4"]),
            ("\"3\" \"4\"", &["3", "4"]),
            ("\"Smith, John\",\"Doe, Jane\"", &["Smith, John", "Doe, Jane"]),
            ("\"a \"\"b\"\"\" , c", &["a \"b\"", "c"]),
            ("John Smith\tJane Doe", &["John Smith", "Jane Doe"]),
            ("5\t", &["5", ""]),
            ("\t5", &["", "5"]),
            (",src,dst", &["", "src", "dst"]),
            ("0,,1", &["0", "", "1"]),
            ("", &[]),
            (" \t ", &[]),
        ];
        for (line, expected) in cases {
            assert_eq!(columns(line), expected, "{line:?}");
        }
        for line in ["\"a", "\"a\"b c", "\"a\"b,c"] {
            assert!(Separator::of(line).columns(line).any(|column| column.is_err()), "{line:?}");
        }
    }

    #[test]
    fn tokens_are_ids_numbers_or_words() {
        let ids =
            [("0", 0), ("007", 7), ("+5", 5), ("4.0", 4), ("2e0", 2), ("0.000000000000000000e+00", 0), ("'3'", 3)];
        for (text, id) in ids {
            assert_eq!(Token::of(text), Token::Id(id), "{text}");
        }
        assert_eq!(Token::of("1.234000000000000000e+03"), Token::Id(1234));
        assert_eq!(Token::of("9007199254740993"), Token::Id(9_007_199_254_740_993));
        assert_eq!((Token::of("-1"), Token::of("-2.0")), (Token::Negative(-1), Token::Negative(-2)));
        assert_eq!(Token::of("-0.0"), Token::Id(0));
        for text in ["0.5", "1,5", "1_000", "1e300", "9007199254740993.0", "99999999999999999999", "-0.5", "1e-3"] {
            assert_eq!(Token::of(text), Token::Number, "{text}");
        }
        for text in ["", "a", "nan", "inf", "-", "v1", "3D", "0x1f", "10.0.0.1", "2026-11-29", "e5", "1 2", "bash"] {
            assert_eq!(Token::of(text), Token::Word, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_line_ends(line in "[0-9a-c ,;\t\"'.e+-]{0,40}|\\PC{0,40}") {
            let separator = Separator::of(&line);
            let count = separator.columns(&line).count();
            prop_assert!(count <= line.chars().count() + 1);
            for column in separator.columns(&line).flatten() { let _ = Token::of(&column); }
        }

        #[test]
        fn integers_survive_however_they_are_written(id in 0u64..1 << 53) {
            let float = id as f64;
            for text in [format!("{id}"), format!("{id}.0"), format!("{float:.18e}"), format!("{float:e}"), format!("'{id}'")] {
                prop_assert_eq!(Token::of(&text), Token::Id(id), "{}", text);
            }
        }

        #[test]
        fn columns_come_back(a in "[a-z0-9 ]{1,8}", b in "[a-z,;\" ]{1,8}") {
            let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
            let line = format!("{},{}", quoted(&a), quoted(&b));
            prop_assert_eq!(columns(&line), [a, b]);
        }
    }
}
