//! Kubernetes quantities to integers and back. What does not fit a step is rounded up: a request is never read too low.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Milli-cores of a CPU quantity, rounded up; `None` if it is no quantity.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1_000)
}

/// Bytes, or whole units, of a quantity, rounded up; `None` if it is no quantity.
pub fn whole(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1)
}

/// Cores as they are written in a report.
pub fn cores(milli: i64) -> Quantity {
    if milli % 1000 == 0 {
        Quantity((milli / 1000).to_string())
    } else {
        Quantity(format!("{milli}m"))
    }
}

/// Bytes as they are written in a report, where people read them: in whole mebibytes, rounded up.
pub fn mebibytes(bytes: i64) -> Quantity {
    const MIB: i64 = 1 << 20;
    Quantity(format!(
        "{}Mi",
        bytes.div_euclid(MIB) + i64::from(bytes.rem_euclid(MIB) > 0)
    ))
}

/// Bytes, or whole units, in plain digits.
pub fn plain(value: i64) -> Quantity {
    Quantity(value.to_string())
}

/// `text` times `times`, rounded up, in exact integers.
fn scaled(text: &str, times: i128) -> Option<i64> {
    let digits_end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (int, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (int.is_empty() && fraction.is_empty()) || int.len() > 20 || fraction.len() > 12 {
        return None;
    }
    let mantissa: i128 = format!("{int}{fraction}").parse().ok()?;
    let places = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (up, down) = unit(suffix)?;
    let numerator = mantissa.checked_mul(up)?.checked_mul(times)?;
    let denominator = down.checked_mul(places)?;
    let value = if negative {
        -(numerator / denominator)
    } else {
        (numerator + denominator - 1) / denominator
    };
    i64::try_from(value).ok()
}

/// A suffix as a fraction.
fn unit(suffix: &str) -> Option<(i128, i128)> {
    let ten = |power: u32| 10_i128.checked_pow(power);
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, ten(9)?),
        "u" => (1, ten(6)?),
        "m" => (1, ten(3)?),
        "k" => (ten(3)?, 1),
        "M" => (ten(6)?, 1),
        "G" => (ten(9)?, 1),
        "T" => (ten(12)?, 1),
        "P" => (ten(15)?, 1),
        "E" => (ten(18)?, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            if power.abs() > 18 {
                return None;
            }
            if power >= 0 {
                (ten(power.unsigned_abs())?, 1)
            } else {
                (1, ten(power.unsigned_abs())?)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn quantities_are_read_exactly_and_rounded_up() {
        let milli = |text: &str| milli(&Quantity(text.to_owned()));
        let whole = |text: &str| whole(&Quantity(text.to_owned()));
        assert_eq!(milli("1"), Some(1000));
        assert_eq!(milli("250m"), Some(250));
        assert_eq!(milli("0.1"), Some(100));
        assert_eq!(milli("1n"), Some(1));
        assert_eq!(whole("4k"), Some(4000));
        assert_eq!(whole("1.5Gi"), Some(1_610_612_736));
        assert_eq!(whole("12e6"), Some(12_000_000));
        assert_eq!(whole("100m"), Some(1));
        assert_eq!(whole("-3"), Some(-3));
    }

    #[test]
    fn what_is_no_quantity_is_none() {
        for text in ["", "x", "1X", "1e99", ".", "1.2.3", "99999999999999999999999"] {
            assert_eq!(whole(&Quantity(text.to_owned())), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for value in [0, 1, 999, 1000, 1500, 64_000] {
            assert_eq!(milli(&cores(value)), Some(value));
            assert_eq!(whole(&plain(value)), Some(value));
        }
    }

    #[test]
    fn a_report_holds_bytes_as_people_read_them_and_never_too_few() {
        let read = |bytes| mebibytes(bytes).0;
        assert_eq!(
            [read(0), read(1), read(1 << 20), read(3 << 30)],
            ["0Mi", "1Mi", "1Mi", "3072Mi"]
        );
        assert_eq!(whole(&mebibytes((1 << 20) + 1)), Some(2 << 20));
    }
}
