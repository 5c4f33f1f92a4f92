//! Times in cron(8)'s five fields: when removal may happen.

use std::fmt;
use std::str::FromStr;

use crate::units::{Quoted, Value, Wrong, serde_as_text};

/// One field: its name in errors, its range, and names for its values from the lowest on.
struct Field {
    name: &'static str,
    lowest: u8,
    highest: u8,
    words: &'static [&'static str],
}

const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Field; 5] = [
    Field {
        name: "minute",
        lowest: 0,
        highest: 59,
        words: &[],
    },
    Field {
        name: "hour",
        lowest: 0,
        highest: 23,
        words: &[],
    },
    Field {
        name: "day of the month",
        lowest: 1,
        highest: 31,
        words: &[],
    },
    Field {
        name: "month",
        lowest: 1,
        highest: 12,
        words: MONTHS,
    },
    // 7 is Sunday too.
    Field {
        name: "day of the week",
        lowest: 0,
        highest: 7,
        words: DAYS,
    },
];

impl Field {
    fn number(&self, text: &str) -> Option<u8> {
        let word = self
            .words
            .iter()
            .position(|word| word.eq_ignore_ascii_case(text));
        let number = match word {
            Some(at) => self.lowest + at as u8,
            None if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().ok()?
            }
            None => return None,
        };
        (self.lowest..=self.highest)
            .contains(&number)
            .then_some(number)
    }

    /// The bits of the numbers that `text` lists.
    fn parse(&self, text: &str) -> Option<u64> {
        let mut bits = 0_u64;
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) if step.bytes().all(|b| b.is_ascii_digit()) => {
                    (range, step.parse::<u8>().ok()?)
                }
                Some(_) => return None,
                None => (part, 1),
            };
            let (first, last) = match range.split_once('-') {
                _ if range == "*" => (self.lowest, self.highest),
                Some((first, last)) => (self.number(first)?, self.number(last)?),
                // A step needs a range to step through, as cron says.
                None if part.contains('/') => return None,
                None => (self.number(range)?, self.number(range)?),
            };
            if step == 0 || first > last {
                return None;
            }
            bits |= (first..=last)
                .step_by(step.into())
                .fold(0, |bits, n| bits | 1 << n);
        }
        Some(bits)
    }
}

/// A minute of some zone's calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Minute {
    pub minute: u8,
    pub hour: u8,
    /// From 1.
    pub day: u8,
    /// From 1.
    pub month: u8,
    /// From 0, Sunday.
    pub weekday: u8,
}

/// Five fields of cron.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    typed: String,
    bits: [u64; 5],
    /// Days of month and week both limit only if one is `*`; else either will do: that is how cron(8) reads them.
    either_day: bool,
}

impl Schedule {
    pub fn includes(&self, at: Minute) -> bool {
        let has = |field: usize, value: u8| self.bits[field] >> value & 1 == 1;
        let (month_day, week_day) = (has(2, at.day), has(4, at.weekday));
        let day = if self.either_day {
            month_day || week_day
        } else {
            month_day && week_day
        };
        has(0, at.minute) && has(1, at.hour) && has(3, at.month) && day
    }
}

impl FromStr for Schedule {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Schedule, Wrong> {
        let parts: Vec<&str> = text.split_ascii_whitespace().collect();
        if parts.len() != FIELDS.len() {
            return Err(Wrong(format!(
                "{} has {} fields",
                Quoted(text),
                parts.len()
            )));
        }
        let mut bits = [0; FIELDS.len()];
        for ((field, part), bits) in FIELDS.iter().zip(&parts).zip(&mut bits) {
            *bits = field.parse(part).ok_or_else(|| {
                Wrong(format!(
                    "{} in {} is not a {}",
                    Quoted(part),
                    Quoted(text),
                    field.name
                ))
            })?;
        }
        bits[4] |= bits[4] >> 7 & 1;
        let either_day = !parts[2].starts_with('*') && !parts[4].starts_with('*');
        Ok(Schedule {
            typed: parts.join(" "),
            bits,
            either_day,
        })
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.typed)
    }
}

impl Value for Schedule {
    const ALLOWED: &'static str = "five fields as in cron(8), minute hour day month weekday, such as \"30 3 * * *\" or \"*/15 8-18 * * mon-fri\"";
    type Meant = Schedule;
    fn meant(&self) -> Schedule {
        self.clone()
    }
}

serde_as_text!(Schedule);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, minute: u8, hour: u8, day: u8, month: u8, weekday: u8) -> bool {
        text.parse::<Schedule>().unwrap().includes(Minute {
            minute,
            hour,
            day,
            month,
            weekday,
        })
    }

    #[test]
    fn fields_list_ranges_steps_and_words() {
        assert!(at("30 3 * * *", 30, 3, 1, 1, 0) && !at("30 3 * * *", 31, 3, 1, 1, 0));
        assert!(at("*/15 * * * *", 45, 9, 1, 1, 0) && !at("*/15 * * * *", 50, 9, 1, 1, 0));
        assert!(at("0 8-18/5,23 * * *", 0, 13, 1, 1, 0) && at("0 8-18/5,23 * * *", 0, 23, 1, 1, 0));
        assert!(at("0 0 * FEB Mon-fri", 0, 0, 3, 2, 5) && !at("0 0 * FEB Mon-fri", 0, 0, 3, 2, 6));
        assert!(at("0 0 * * 7", 0, 0, 3, 2, 0));
    }

    #[test]
    fn two_limited_days_mean_either() {
        assert!(at("0 0 13 * 5", 0, 0, 13, 1, 2) && at("0 0 13 * 5", 0, 0, 12, 1, 5));
        assert!(!at("0 0 13 * 5", 0, 0, 12, 1, 4));
        assert!(!at("0 0 13 * *", 0, 0, 12, 1, 5));
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for text in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-1 * * * *",
            "*/0 * * * *",
            "5/2 * * * *",
            "x * * * *",
            "1, * * * *",
            "+1 * * * *",
            "*/x * * * *",
            "@daily",
            "1--2 * * * *",
            "*/ * * * *",
            "999 * * * *",
        ] {
            assert!(text.parse::<Schedule>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_schedule_prints_as_typed() {
        let schedule: Schedule = " 30  3 * * mon ".parse().unwrap();
        assert_eq!(schedule.to_string(), "30 3 * * mon");
        assert_eq!(schedule.to_string().parse::<Schedule>().unwrap(), schedule);
    }
}
