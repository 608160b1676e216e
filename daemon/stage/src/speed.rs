//! Owns the speed of a link of `--link`: how people write it, and how it is said. Must never guess: what may mean bits
//! or bytes is refused.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Slowest and fastest link, in bits per second. Below, a minibatch takes longer than a daemon waits for a peer.
const BITS_PER_S: RangeInclusive<u64> = 1_000_000..=100_000_000_000;
/// Units of people and of `tc`, largest first, and the power of ten that each stands for.
const UNITS: [(&str, &str, i32); 4] =
    [("Gbit/s", "gbit", 9), ("Mbit/s", "mbit", 6), ("kbit/s", "kbit", 3), ("bit/s", "bit", 0)];
/// What a speed looks like, for error messages.
const FORMS: &str = "write a number and a unit (100mbit, 2.5Gbit/s), or bits per second (1000000)";

/// Speed of a link in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSpeed {
    bits_per_s: u64,
}

impl FromStr for LinkSpeed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.trim().to_ascii_lowercase();
        let in_number = |c: char| c.is_ascii_digit() || matches!(c, '.' | '_');
        let (number, unit) = lower.split_at(lower.find(|c| !in_number(c)).unwrap_or(lower.len()));
        let unit = unit.trim();
        let wrong = || format!("`{text}` is not the speed of a link: {FORMS}");
        let value: f64 = number.replace('_', "").parse().map_err(|_| wrong())?;
        let known = |&&(people, tc, _): &&(&str, &str, i32)| unit == tc || unit.eq_ignore_ascii_case(people);
        let power = match UNITS.iter().find(known) {
            Some((_, _, power)) => *power,
            None if unit.is_empty() => 0,
            None if unit.trim_end_matches("/s").ends_with('b') || unit.ends_with("ps") => {
                return Err(format!("`{unit}` in `{text}` may mean bits or bytes: {FORMS}"));
            }
            None => return Err(wrong()),
        };
        let bits_per_s = (value * 10f64.powi(power)).round();
        let (low, high) = (BITS_PER_S.start(), BITS_PER_S.end());
        if bits_per_s < *low as f64 || bits_per_s > *high as f64 {
            let [low, high] = [low, high].map(|&bits_per_s| Self { bits_per_s });
            return Err(format!("`{text}` is not from {low} to {high}: {FORMS}"));
        }
        Ok(Self { bits_per_s: bits_per_s as u64 })
    }
}

/// `2.5 Gbit/s`, in the largest unit of which there is a whole one.
impl fmt::Display for LinkSpeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |&&(_, _, power): &&(&str, &str, i32)| self.bits_per_s >= 10u64.pow(power as u32);
        let (unit, _, power) = UNITS.iter().find(fits).unwrap_or(&UNITS[3]);
        write!(f, "{} {unit}", self.bits_per_s as f64 / 10f64.powi(*power))
    }
}

impl LinkSpeed {
    /// Bits per second, in each direction.
    pub fn bits_per_s(self) -> u64 {
        self.bits_per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read_in_bits_per_second() {
        for (text, bits_per_s, said) in [
            ("1gbit", 1_000_000_000, "1 Gbit/s"),
            ("100mbit", 100_000_000, "100 Mbit/s"),
            ("2.5Gbit/s", 2_500_000_000, "2.5 Gbit/s"),
            ("2.5 Gbit/s", 2_500_000_000, "2.5 Gbit/s"),
            (" 40 GBIT ", 40_000_000_000, "40 Gbit/s"),
            ("1500kbit", 1_500_000, "1.5 Mbit/s"),
            ("1000kbit/s", 1_000_000, "1 Mbit/s"),
            ("1000000", 1_000_000, "1 Mbit/s"),
            ("25_000_000", 25_000_000, "25 Mbit/s"),
            ("25000000bit/s", 25_000_000, "25 Mbit/s"),
            ("0.001gbit", 1_000_000, "1 Mbit/s"),
            (".5gbit", 500_000_000, "500 Mbit/s"),
            ("33.333333mbit", 33_333_333, "33.333333 Mbit/s"),
            ("100gbit", 100_000_000_000, "100 Gbit/s"),
        ] {
            let speed: LinkSpeed = text.parse().unwrap();
            assert_eq!((speed.bits_per_s(), speed.to_string().as_str()), (bits_per_s, said), "{text}");
        }
    }

    #[test]
    fn what_is_no_speed_is_refused_with_the_value_and_examples() {
        for (text, says) in [
            ("", "not the speed"),
            ("fast", "not the speed"),
            ("mbit", "not the speed"),
            ("-5mbit", "not the speed"),
            ("+5mbit", "not the speed"),
            ("1e9", "not the speed"),
            ("inf", "not the speed"),
            ("NaN", "not the speed"),
            ("1.2.3gbit", "not the speed"),
            ("1,5gbit", "not the speed"),
            ("10 apples", "not the speed"),
            ("100mbit/h", "not the speed"),
            ("1gibit", "not the speed"),
            ("100mbit,1gbit", "not the speed"),
            ("100MB", "bits or bytes"),
            ("100MB/s", "bits or bytes"),
            ("1gbps", "bits or bytes"),
            ("1Gb/s", "bits or bytes"),
            ("0", "not from 1 Mbit/s to 100 Gbit/s"),
            ("999999", "not from 1 Mbit/s"),
            ("56kbit", "not from 1 Mbit/s"),
            ("101gbit", "not from 1 Mbit/s"),
            ("99999999999999999999999999999999", "not from 1 Mbit/s"),
        ] {
            let error = text.parse::<LinkSpeed>().unwrap_err();
            assert!(error.contains(says) && error.contains(&format!("`{text}`")), "{text}: {error}");
            assert!(error.contains("100mbit, 2.5Gbit/s"), "{text}: {error}");
        }
    }
}
