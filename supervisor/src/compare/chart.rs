//! Pictures of numbers as inline SVG.
//!
//! They are drawn as wide as a phone's screen and grow with the page, so that their text is legible on both. Their numbers stand in
//! tables beside them, which is what a screen reader reads.

use std::fmt::Write as _;

use super::document::{Chart, Unit, show};
use super::html::escaped;

/// Width of a picture, in its own units: about the pixels of a phone.
const WIDTH: f64 = 360.0;
/// How many colours the style has.
const COLOURS: usize = 8;
/// The numbers of a chart reach this far apart before its scale becomes logarithmic.
const FAR: f64 = 12.0;
/// Height of one guest's lane.
const LANE: f64 = 16.0;
/// Room for the number beside the last dot.
const LABEL: f64 = 64.0;

/// Adds the figure to a page.
pub(super) fn write(page: &mut String, chart: &Chart) {
    match chart {
        Chart::Dots { title, unit, guests, rows } => dots(page, title, *unit, guests, rows),
        Chart::Shares { title, unit, bars } => shares(page, title, *unit, bars),
    }
}

fn open(page: &mut String, title: &str, legend: &[String]) {
    let _ = writeln!(page, "<figure>\n<figcaption>{}</figcaption>", escaped(title));
    if !legend.is_empty() {
        page.push_str("<div class=\"legend\">");
        for (index, name) in legend.iter().enumerate() {
            let _ = write!(page, "<span style=\"--c:{}\">{}</span>", colour(index), escaped(name));
        }
        page.push_str("</div>\n");
    }
}

fn svg(page: &mut String, title: &str, height: f64, inside: &str) {
    let _ = writeln!(
        page,
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{}\">\n{inside}</svg>\n</figure>",
        escaped(title)
    );
}

fn colour(guest: usize) -> String {
    format!("var(--g{})", guest % COLOURS)
}

/// Where a number lies between the edges.
struct Scale {
    low: f64,
    high: f64,
    log: bool,
    /// What round numbers are powers of: 10, and for bytes 16, of which 4 KiB, 64 KiB and 1 MiB are powers.
    base: f64,
    /// The steps between round numbers, times a power of the base.
    steps: [f64; 5],
}

impl Scale {
    fn of(numbers: &[f64], unit: Unit) -> Option<Self> {
        let above = numbers.iter().copied().filter(|x| *x > 0.0);
        let (least, most) = above.fold((f64::INFINITY, 0.0_f64), |(a, b), x| (a.min(x), b.max(x)));
        if most <= 0.0 {
            return None;
        }
        // A logarithmic scale has no zero.
        let log = most / least > FAR && numbers.iter().all(|x| *x > 0.0);
        let (base, steps): (f64, _) = match unit {
            Unit::Bytes => (16.0, [1.0, 2.0, 4.0, 8.0, 16.0]),
            Unit::Ms | Unit::PerSecond => (10.0, [1.0, 2.0, 2.5, 5.0, 10.0]),
        };
        let low = if log { base.powf(least.log(base).floor()) } else { 0.0 };
        let high = if log { most } else { most * 1.02 };
        Some(Self { low, high, log, base, steps })
    }

    fn place(&self, x: f64) -> f64 {
        let share = if self.log {
            (x.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            x / self.high
        };
        6.0 + share * (WIDTH - LABEL - 12.0)
    }

    /// Round numbers along the scale, at most five.
    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let powers = std::iter::successors(Some(self.low), |x| Some(x * self.base));
            let powers: Vec<f64> = powers.take_while(|x| *x <= self.high * 1.001).collect();
            let step = powers.len().div_ceil(5).max(1);
            return powers.into_iter().step_by(step).collect();
        }
        let rough = self.high / 4.0;
        let power = self.base.powf(rough.log(self.base).floor());
        let step = self.steps.map(|m| m * power).into_iter().find(|step| *step >= rough).unwrap_or(rough);
        std::iter::successors(Some(0.0), |x| Some(x + step)).take_while(|x| *x <= self.high).collect()
    }
}

fn dots(page: &mut String, title: &str, unit: Unit, guests: &[String], rows: &[(String, Vec<Vec<f64>>)]) {
    let all: Vec<f64> = rows.iter().flat_map(|(_, series)| series.iter().flatten().copied()).collect();
    let Some(scale) = Scale::of(&all, unit) else { return };
    let title = if scale.log { format!("{title} (logarithmic scale)") } else { title.to_owned() };
    let (mut inside, mut y) = (String::new(), 4.0);
    let mut lanes = String::new();
    for (name, series) in rows {
        if rows.len() > 1 {
            y += 14.0;
            let _ =
                writeln!(lanes, "<text class=\"soft\" x=\"0\" y=\"{:.1}\">{}</text>", y - 3.0, escaped(name));
        }
        for (guest, numbers) in series.iter().enumerate() {
            let middle = y + LANE / 2.0;
            let mut sorted = numbers.clone();
            sorted.sort_by(f64::total_cmp);
            let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { continue };
            let median = super::stats::quantile(&sorted, 0.5);
            let colour = colour(guest);
            if sorted.len() == 1 {
                let _ = writeln!(
                    lanes,
                    "<line x1=\"6\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" stroke=\"{colour}\" stroke-width=\"2\" stroke-opacity=\".5\"/>",
                    scale.place(*first)
                );
            }
            for number in numbers {
                let _ = writeln!(
                    lanes,
                    "<circle cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"3.5\" fill=\"{colour}\" fill-opacity=\"{}\"/>",
                    scale.place(*number),
                    if sorted.len() == 1 { "1" } else { ".45" }
                );
            }
            if sorted.len() > 1 {
                let at = scale.place(median);
                let _ = writeln!(
                    lanes,
                    "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                    middle - 7.0,
                    middle + 7.0
                );
            }
            let _ = writeln!(
                lanes,
                "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                scale.place(*last) + 8.0,
                middle + 4.0,
                show(median, unit)
            );
            y += LANE;
        }
        y += 4.0;
    }
    let bottom = y;
    for tick in scale.ticks() {
        let x = scale.place(tick);
        let _ = writeln!(
            inside,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{bottom:.1}\"/>\n\
             <text class=\"soft\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{}\">{}</text>",
            bottom + 12.0,
            if x < 14.0 { "start" } else { "middle" },
            show(tick, unit)
        );
    }
    inside.push_str(&lanes);
    open(page, &title, guests);
    svg(page, &title, bottom + 18.0, &inside);
}

fn shares(page: &mut String, title: &str, unit: Unit, bars: &[(String, Vec<(String, f64)>)]) {
    let (mut inside, mut y) = (String::new(), 0.0);
    let mut parts: Vec<String> = Vec::new();
    for name in bars.iter().flat_map(|(_, parts)| parts).map(|(name, _)| name) {
        if !parts.contains(name) {
            parts.push(name.clone());
        }
    }
    for (guest, values) in bars {
        let total: f64 = values.iter().map(|(_, value)| value).sum();
        if total <= 0.0 {
            continue;
        }
        let _ = writeln!(
            inside,
            "<text x=\"0\" y=\"{:.1}\">{}: {}</text>",
            y + 12.0,
            escaped(guest),
            show(total, unit)
        );
        let (mut x, middle) = (0.0, y + 18.0);
        for (name, value) in values {
            let width = value / total * WIDTH;
            let index = parts.iter().position(|part| part == name).unwrap_or_default();
            let _ = writeln!(
                inside,
                "<rect x=\"{x:.1}\" y=\"{middle:.1}\" width=\"{:.1}\" height=\"16\" fill=\"{}\" fill-opacity=\"{}\"><title>{}: {}</title></rect>",
                (width - 0.7).max(0.4),
                colour(index),
                if index < COLOURS { "1" } else { ".5" },
                escaped(name),
                show(*value, unit)
            );
            x += width;
        }
        y += 44.0;
    }
    if y == 0.0 {
        return;
    }
    open(page, title, &parts);
    svg(page, title, y, &inside);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_numbers_get_a_logarithmic_scale_and_stay_inside() {
        let scale = Scale::of(&[120.0, 13_000.0], Unit::Ms).unwrap();
        assert!(scale.log);
        assert_eq!(scale.ticks(), [100.0, 1000.0, 10_000.0]);
        for x in [120.0, 13_000.0] {
            assert!((0.0..WIDTH - LABEL).contains(&scale.place(x)));
        }
        let near = Scale::of(&[3.0, 4.0, 0.0], Unit::Ms).unwrap();
        assert!(!near.log);
        assert_eq!(near.ticks(), [0.0, 2.0, 4.0]);
        let bytes = Scale::of(&[100.0 * 1024.0, 300.0 * 1024.0 * 1024.0], Unit::Bytes).unwrap();
        assert_eq!(
            bytes.ticks().iter().map(|x| show(*x, Unit::Bytes)).collect::<Vec<_>>(),
            ["64.0 KiB", "1.00 MiB", "16.0 MiB", "256 MiB"]
        );
        assert!(Scale::of(&[0.0], Unit::Ms).is_none() && Scale::of(&[], Unit::Ms).is_none());
    }

    #[test]
    fn names_are_escaped() {
        let mut page = String::new();
        let evil = "<b>".to_owned();
        let rows = vec![(evil.clone(), vec![vec![1.0, 2.0]]), ("x".to_owned(), vec![vec![]])];
        write(
            &mut page,
            &Chart::Dots { title: evil.clone(), unit: Unit::Ms, guests: vec![evil.clone()], rows },
        );
        write(
            &mut page,
            &Chart::Shares {
                title: evil.clone(),
                unit: Unit::Ms,
                bars: vec![(evil.clone(), vec![(evil, 1.0)])],
            },
        );
        assert!(!page.contains("<b>") && page.contains("&lt;b&gt;"), "{page}");
    }
}
