//! Pressure stall information: `cpu.pressure`, `memory.pressure`, `io.pressure`, and `/proc/pressure/*`.

use crate::{dir::Cgroup, error::Error};

/// One line of a pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stall {
    /// Share of the last 10 s, hundredths of a percent: the kernel's two decimals as an integer.
    pub avg10: u32,
    /// Share of the last 60 s, hundredths of a percent.
    pub avg60: u32,
    /// Share of the last 300 s, hundredths of a percent.
    pub avg300: u32,
    /// Total, microseconds.
    pub total: u64,
}

/// A pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Some task waited.
    pub some: Stall,
    /// All tasks waited; absent for CPU before 5.13.
    pub full: Option<Stall>,
}

impl Cgroup {
    /// `cpu.pressure`; `None` also if the kernel was booted without pressure accounting.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is no pressure.
    pub fn cpu_pressure(&self) -> Result<Option<Pressure>, Error> {
        self.pressure("cpu.pressure")
    }

    /// `memory.pressure`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is no pressure.
    pub fn memory_pressure(&self) -> Result<Option<Pressure>, Error> {
        self.pressure("memory.pressure")
    }

    /// `io.pressure`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is no pressure.
    pub fn io_pressure(&self) -> Result<Option<Pressure>, Error> {
        self.pressure("io.pressure")
    }

    pub(crate) fn pressure(&self, file: &'static str) -> Result<Option<Pressure>, Error> {
        self.read_again(file, |text| {
            parse(text).map_err(|line| self.wrong(file, line, "a line of pressure"))
        })
    }
}

/// The whole text of a pressure file, or the line that is none.
fn parse(text: &str) -> Result<Pressure, &str> {
    let mut some = None;
    let mut full = None;
    for line in text.lines() {
        let stall = line.split_once(' ').and_then(|(kind, rest)| Some((kind, stall(rest)?)));
        match stall.ok_or(line)? {
            ("some", stall) => some = Some(stall),
            ("full", stall) => full = Some(stall),
            _ => {}
        }
    }
    some.map(|some| Pressure { some, full }).ok_or(text)
}

fn stall(text: &str) -> Option<Stall> {
    let mut stall = Stall::default();
    let mut total = None;
    for word in text.split_ascii_whitespace() {
        let (key, value) = word.split_once('=')?;
        match key {
            "avg10" => stall.avg10 = hundredths(value)?,
            "avg60" => stall.avg60 = hundredths(value)?,
            "avg300" => stall.avg300 = hundredths(value)?,
            "total" => total = Some(value.parse().ok()?),
            _ => {}
        }
    }
    stall.total = total?;
    Some(stall)
}

fn hundredths(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.')?;
    let fraction = if fraction.len() == 2 {
        fraction.parse::<u32>().ok()?
    } else {
        return None;
    };
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests"
    )]
    use super::*;

    #[test]
    fn both_lines_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let text =
            "some avg10=13.80 avg60=6.78 avg300=0.00 total=6459620\nfull avg10=9.07 avg60=0.00 avg300=0.00 total=12\n";
        std::fs::write(dir.path().join("cpu.pressure"), text).unwrap();
        let c = Cgroup::open(dir.path()).unwrap();
        let pressure = c.cpu_pressure().unwrap().unwrap();
        assert_eq!(
            pressure.some,
            Stall {
                avg10: 1380,
                avg60: 678,
                avg300: 0,
                total: 6_459_620
            }
        );
        assert_eq!(pressure.full.unwrap().avg10, 907);
        assert_eq!(c.io_pressure().unwrap(), None);
    }

    #[test]
    fn old_kernels_have_no_full_line_for_cpu() {
        let pressure = parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=1").unwrap();
        assert_eq!(
            pressure,
            Pressure {
                some: Stall {
                    total: 1,
                    ..Stall::default()
                },
                full: None
            }
        );
    }

    #[test]
    fn a_line_that_is_no_pressure_is_named() {
        assert_eq!(parse("some avg10=x total=1").unwrap_err(), "some avg10=x total=1");
        assert_eq!(
            parse("some avg10=0.00 avg60=0.00").unwrap_err(),
            "some avg10=0.00 avg60=0.00"
        );
        assert_eq!(parse("full avg10=0.00 total=1").unwrap_err(), "full avg10=0.00 total=1");
    }
}
