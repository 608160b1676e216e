//! What to say where a name is not there: the names that are, and the one that was probably meant. Pure; it must never
//! take one name for another by itself.

/// Most names in one message.
const LISTED_MAX: usize = 16;

/// The one of `names` that was probably meant by `asked`: the same in other letters, the same with or without the type
/// before it (`paper.x` for `x`), or one that differs in few letters. The first of several.
#[must_use]
pub fn nearest<'a>(asked: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters_max = (asked.chars().count() / 3).max(1);
    let distance = |name: &str| {
        let is_end = |whole: &str, end: &str| whole.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
        if name.eq_ignore_ascii_case(asked) {
            return Some(0);
        }
        if is_end(name, asked) || is_end(asked, name) {
            return Some(1);
        }
        let letters = strsim::damerau_levenshtein(asked, name);
        (letters <= letters_max).then_some(1 + letters)
    };
    let near = names.into_iter().filter_map(|name| Some((distance(name)?, name)));
    near.min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// The existing names, and the one that was probably meant, for a message about `asked`, which does not exist.
#[must_use]
pub fn listed<'a>(asked: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let shown: Vec<String> = names.iter().take(LISTED_MAX).map(|name| format!("`{name}`")).collect();
    let mut text = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
    if let Some(more) = names.len().checked_sub(LISTED_MAX).filter(|&more| more > 0) {
        text += &format!(" and {more} more");
    }
    if let Some(name) = nearest(asked, names) {
        text += &format!("; did you mean `{name}`?");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_was_meant() {
        let names = ["paper.x", "paper.year", "author.x", "label"];
        let meant = |asked| nearest(asked, names);
        assert_eq!(meant("x"), Some("paper.x"));
        assert_eq!(meant("paper.label"), Some("label"));
        assert_eq!(meant("Author.X"), Some("author.x"));
        assert_eq!(meant("paper.yaer"), Some("paper.year"));
        assert_eq!(meant("lable"), Some("label"));
        assert_eq!(meant("weights"), None);
        assert_eq!(meant(""), None);
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(listed("feet", ["feat", "label"]), "`feat`, `label`; did you mean `feat`?");
        assert_eq!(listed("x", []), "none");
        let many: Vec<String> = (0..30).map(|at| format!("table{at}")).collect();
        let text = listed("table29.", many.iter().map(String::as_str));
        assert!(text.ends_with("`table15` and 14 more; did you mean `table29`?"), "{text}");
    }
}
