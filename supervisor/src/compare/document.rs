//! A report as blocks, from which Markdown and HTML are written, so that both say the same.

/// A part of a report. Texts are plain: whoever writes a format escapes them.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// A heading; 1 is the report's title.
    Heading(u8, String),
    /// A paragraph.
    Text(String),
    /// A paragraph that must not be passed over.
    Warning(String),
    /// Items.
    List(Vec<String>),
    /// Names, each with a text.
    Facts(Vec<(String, String)>),
    /// Rows under a header. The first column names the row.
    Table(Vec<String>, Vec<Vec<String>>),
    /// Text as it is.
    Code(String),
    /// A picture of numbers that a table beside it has, too.
    Chart(Chart),
}

/// What a chart's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Milliseconds.
    Ms,
    /// Bytes.
    Bytes,
    /// Answers in a second.
    PerSecond,
}

/// A picture of numbers.
#[derive(Debug, Clone, PartialEq)]
pub enum Chart {
    /// Each number a dot: for each row a lane for each guest.
    Dots {
        /// What it shows.
        title: String,
        /// Of all numbers.
        unit: Unit,
        /// The guests' names, which have a colour each.
        guests: Vec<String>,
        /// Each row's name, and each guest's numbers.
        rows: Vec<(String, Vec<Vec<f64>>)>,
    },
    /// Each guest's whole as a bar of parts.
    Shares {
        /// What it shows.
        title: String,
        /// Of all numbers.
        unit: Unit,
        /// Each guest's name, and its parts in order.
        bars: Vec<(String, Vec<(String, f64)>)>,
    },
}

/// A number as people read it.
#[must_use]
pub fn show(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Ms => ms(value),
        Unit::Bytes => bytes(value),
        Unit::PerSecond => format!("{}/s", plain(value)),
    }
}

/// Milliseconds with three digits, as seconds from one second on.
#[must_use]
pub fn ms(value: f64) -> String {
    if value.abs() >= 1000.0 {
        format!("{} s", plain(value / 1000.0))
    } else {
        format!("{} ms", plain(value))
    }
}

/// Bytes with a binary unit.
#[must_use]
pub fn bytes(value: f64) -> String {
    let mut scaled = value;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if scaled.abs() < 1024.0 {
            return if unit == "B" { format!("{scaled:.0} B") } else { format!("{} {unit}", plain(scaled)) };
        }
        scaled /= 1024.0;
    }
    format!("{} TiB", plain(scaled))
}

/// A number with about three digits.
#[must_use]
pub fn plain(value: f64) -> String {
    match value.abs() {
        x if x == 0.0 || x >= 99.95 => format!("{value:.0}"),
        x if x >= 9.995 => format!("{value:.1}"),
        x if x >= 0.995 => format!("{value:.2}"),
        x if x >= 0.0005 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

/// A count as a number to calculate with.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
pub const fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        for (value, unit, text) in [
            (0.0, Unit::Ms, "0 ms"),
            (0.1234, Unit::Ms, "0.123 ms"),
            (99.96, Unit::Ms, "100 ms"),
            (12_345.0, Unit::Ms, "12.3 s"),
            (0.0, Unit::Bytes, "0 B"),
            (1023.0, Unit::Bytes, "1023 B"),
            (1536.0, Unit::Bytes, "1.50 KiB"),
            (-2_097_152.0, Unit::Bytes, "-2.00 MiB"),
            (1_234.4, Unit::PerSecond, "1234/s"),
        ] {
            assert_eq!(show(value, unit), text);
        }
        assert_eq!(plain(0.000_01), "1.0e-5");
    }
}
