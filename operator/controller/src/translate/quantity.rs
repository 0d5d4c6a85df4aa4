//! Quantities as Kubernetes reads them: `resource.Quantity`, on checked integers.
//!
//! The grammar is that of `k8s.io/apimachinery/pkg/api/resource`: an optional sign, decimal digits with an optional
//! point, and one suffix: `n u m "" k M G T P E`, `Ki Mi Gi Ti Pi Ei`, or `e`/`E` with a decimal exponent. What does
//! not divide evenly is rounded away from zero, as there. What is over `i64::MAX` is `i64::MAX`; there it wraps around.

use thiserror::Error;

/// A text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("quantity {text:?} {problem}: write a number with a suffix such as 500m, 4, 2Gi or 1e3")]
pub struct QuantityError {
    /// What stood there.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// The quantity in whole units, rounded up: bytes, devices, pods.
///
/// # Errors
///
/// If the text is no quantity.
pub fn units(text: &str) -> Result<i64, QuantityError> {
    scaled(text, 0).map(to_i64)
}

/// The quantity in thousandths, rounded up: milli-cores, thousandths of a device.
///
/// # Errors
///
/// If the text is no quantity.
pub fn thousandths(text: &str) -> Result<i64, QuantityError> {
    scaled(text, 3).map(to_i64)
}

/// An amount to add others to before it is rounded, as Kubernetes adds quantities: in billionths of a unit, the finest
/// that it knows. At most `i64::MAX` units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exact(i128);

impl Exact {
    const UNIT: i128 = 1_000_000_000;
    const LARGEST: i128 = i64::MAX as i128 * Self::UNIT;

    /// Reads an amount. Those below zero, which nothing that is asked for can be, are refused.
    ///
    /// # Errors
    ///
    /// If the text is no quantity, or below zero.
    pub fn read(text: &str) -> Result<Self, QuantityError> {
        let value = scaled(text, 9)?;
        if value < 0 {
            return Err(QuantityError {
                text: text.to_owned(),
                problem: "is below zero",
            });
        }
        Ok(Self(value.min(Self::LARGEST)))
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self((self.0 + other.0).min(Self::LARGEST))
    }

    /// The amount in the core's base unit of a resource, rounded up: `cpu` in thousandths, everything else in units.
    #[must_use]
    pub fn amount(self, resource: &str) -> i64 {
        let per = if resource == "cpu" { 1000 } else { 1 };
        let base = Self::UNIT / per;
        to_i64((self.0 + base - 1) / base)
    }
}

/// An amount of a resource in the core's base unit: `cpu` in thousandths, everything else in units. Amounts below
/// zero, which nothing that is asked for or offered can be, are refused.
///
/// # Errors
///
/// If the text is no quantity, or below zero.
pub fn amount(resource: &str, text: &str) -> Result<i64, QuantityError> {
    let value = if resource == "cpu" {
        thousandths(text)?
    } else {
        units(text)?
    };
    if value < 0 {
        return Err(QuantityError {
            text: text.to_owned(),
            problem: "is below zero",
        });
    }
    Ok(value)
}

/// Digits that are computed with exactly: `10^36 < 2^120`.
const DIGITS: usize = 36;
/// Digits after the point that are computed with exactly if a binary suffix multiplies them by up to 2^60.
const BINARY_FRACTION_DIGITS: usize = 18;

/// A suffix: the number is multiplied by `10^decimal` and by `2^binary`.
struct Suffix {
    decimal: i64,
    binary: u32,
}

fn suffix(text: &str) -> Option<Suffix> {
    let decimal = |decimal| Some(Suffix { decimal, binary: 0 });
    let binary = |binary| Some(Suffix { decimal: 0, binary });
    match text {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = text.strip_prefix(['e', 'E'])?;
            decimal(exponent.parse::<i32>().ok()?.into())
        }
    }
}

/// Splits off the leading digits.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn to_i64(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// The quantity times `10^scale`, rounded away from zero; the largest number if it is over that.
fn scaled(text: &str, scale: i64) -> Result<i128, QuantityError> {
    let fail = |problem| QuantityError {
        text: text.to_owned(),
        problem,
    };
    if text.is_empty() {
        return Err(fail("is empty"));
    }
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, rest) = digits(rest);
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), digits);
    let Suffix { decimal, binary } = suffix(rest).ok_or_else(|| fail("has no known suffix"))?;

    let magnitude = magnitude(whole, fraction, decimal.saturating_add(scale), binary);
    let magnitude = i128::try_from(magnitude).unwrap_or(i128::MAX);
    Ok(if negative { -magnitude } else { magnitude })
}

/// `whole.fraction x 10^decimal x 2^binary`, rounded up.
fn magnitude(whole: &str, fraction: &str, decimal: i64, binary: u32) -> u128 {
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let exact = if binary == 0 {
        DIGITS.saturating_sub(whole.len())
    } else {
        BINARY_FRACTION_DIGITS
    };
    let (kept, cut) = fraction.split_at_checked(exact).unwrap_or((fraction, ""));
    // What is cut off is above zero: the value is a little over what is kept, and is rounded up in the end.
    let more = !cut.is_empty();

    let mut mantissa: u128 = 0;
    for digit in whole.bytes().chain(kept.bytes()) {
        let digit = u128::from(digit.saturating_sub(b'0'));
        match mantissa.checked_mul(10).and_then(|m| m.checked_add(digit)) {
            Some(m) => mantissa = m,
            // 2^128 is over 10^38, and at most 36 of these digits are behind the point.
            None => return u128::MAX,
        }
    }
    if mantissa == 0 {
        return u128::from(more);
    }
    let kept_digits = i64::try_from(kept.len()).unwrap_or(i64::MAX);
    let exponent = decimal.saturating_sub(kept_digits);
    let Some(mantissa) = mantissa.checked_mul(1_u128 << binary.min(60)) else {
        return u128::MAX;
    };
    if exponent >= 0 {
        match u32::try_from(exponent)
            .ok()
            .and_then(|e| 10_u128.checked_pow(e))
            .and_then(|p| mantissa.checked_mul(p))
        {
            Some(value) => value.saturating_add(u128::from(more)),
            None => u128::MAX,
        }
    } else {
        match u32::try_from(exponent.unsigned_abs())
            .ok()
            .and_then(|e| 10_u128.checked_pow(e))
        {
            Some(divisor) => mantissa
                .div_ceil(divisor)
                .saturating_add(u128::from(more && mantissa % divisor == 0)),
            None => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn quantities_have_the_values_that_kubernetes_gives_them() {
        // Text, Value(), MilliValue(), as resource.ParseQuantity of k8s.io/apimachinery v0.37 gives them, save for those
        // that do not fit into 64 bits: there they wrap around to nonsense, here they stay the largest number.
        let table = [
            ("0", 0, 0),
            ("1", 1, 1000),
            ("100m", 1, 100),
            ("1500m", 2, 1500),
            ("1.5", 2, 1500),
            (".5", 1, 500),
            ("5.", 5, 5000),
            ("+3", 3, 3000),
            ("-1", -1, -1000),
            ("-100m", -1, -100),
            ("1n", 1, 1),
            ("1u", 1, 1),
            ("1001u", 1, 2),
            ("999999999n", 1, 1000),
            ("0.0000000001", 1, 1),
            ("1k", 1_000, 1_000_000),
            ("1Ki", 1_024, 1_024_000),
            ("1.5Ki", 1_536, 1_536_000),
            ("0.5Ki", 512, 512_000),
            ("0.0001Ki", 1, 103),
            ("2M", 2_000_000, 2_000_000_000),
            ("2Mi", 2_097_152, 2_097_152_000),
            ("3G", 3_000_000_000, 3_000_000_000_000),
            ("3Gi", 3_221_225_472, 3_221_225_472_000),
            ("1T", 1_000_000_000_000, 1_000_000_000_000_000),
            ("1Ti", 1_099_511_627_776, 1_099_511_627_776_000),
            ("1P", 1_000_000_000_000_000, 1_000_000_000_000_000_000),
            ("1Pi", 1_125_899_906_842_624, 1_125_899_906_842_624_000),
            ("1E", 1_000_000_000_000_000_000, i64::MAX),
            ("1Ei", 1_152_921_504_606_846_976, i64::MAX),
            ("8Ei", i64::MAX, i64::MAX),
            ("100E", i64::MAX, i64::MAX),
            ("1e3", 1_000, 1_000_000),
            ("1E3", 1_000, 1_000_000),
            ("1e+3", 1_000, 1_000_000),
            ("15e-1", 2, 1500),
            ("1e-20", 1, 1),
            ("0e99", 0, 0),
            ("1e99", i64::MAX, i64::MAX),
            ("007", 7, 7000),
            ("0.1Ei", 115_292_150_460_684_698, i64::MAX),
            ("9223372036854775807", i64::MAX, i64::MAX),
            ("9223372036854775808", i64::MAX, i64::MAX),
            ("99999999999999999999999999999999999999999999", i64::MAX, i64::MAX),
            ("0.99999999999999999999999999999999999999999999", 1, 1000),
            // Oddities that are accepted there too.
            (".", 0, 0),
            ("+", 0, 0),
            ("-", 0, 0),
            ("Ki", 0, 0),
            ("e3", 0, 0),
        ];
        for (text, value, milli) in table {
            assert_eq!(
                (units(text).unwrap(), thousandths(text).unwrap()),
                (value, milli),
                "{text}"
            );
        }
    }

    #[test]
    fn what_kubernetes_refuses_is_refused() {
        for text in [
            "", " ", "1 ", " 1", "1.2.3", "1x", "e3x", "1e", "1ee3", "1_000", "1Kii", "1ki", "1K", "12mi", "--1", "1-",
            "0x10", "٣",
        ] {
            assert!(units(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn sums_are_rounded_once() {
        let sum = |a: &str, b: &str, resource: &str| {
            let sum = Exact::read(a).unwrap().plus(Exact::read(b).unwrap());
            sum.amount(resource)
        };
        assert_eq!(sum("500u", "500u", "cpu"), 1);
        assert_eq!(sum("500u", "501u", "cpu"), 2);
        assert_eq!(sum("100m", "100m", "memory"), 1);
        assert_eq!(sum("1.5Ki", "0.0000000001", "memory"), 1537);
        assert_eq!(sum("8Ei", "8Ei", "memory"), i64::MAX);
        assert_eq!(sum("1e99", "1", "cpu"), i64::MAX);
        assert!(Exact::read("-1").is_err());
    }

    #[test]
    fn amounts_count_cores_in_thousandths_and_refuse_what_is_below_zero() {
        assert_eq!(amount("cpu", "250m"), Ok(250));
        assert_eq!(amount("duosuan.io/batch-cpu", "250"), Ok(250));
        assert_eq!(amount("memory", "1Gi"), Ok(1 << 30));
        let error = amount("memory", "-1").unwrap_err();
        assert!(error.to_string().contains("\"-1\" is below zero"), "{error}");
    }
}
