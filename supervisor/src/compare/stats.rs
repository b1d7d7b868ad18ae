//! What a handful of measurements say, and whether two handfuls say different things. Pure, and the same for the same numbers.
//!
//! Times of boots are skewed: most are near the least, a few are late. So the median stands for them, and nothing here takes them for
//! normally distributed:
//!
//! - the **interval** is the percentile bootstrap of the median (Efron, Tibshirani: An Introduction to the Bootstrap, 13.3), with a fixed
//!   seed, so that a report which is rendered again says the same;
//! - the **test** whether two guests differ is that of Mann and Whitney, which compares ranks and so is moved neither by the form of
//!   the distributions nor by an outlier. For few samples without ties its distribution is counted out, as scipy's `mannwhitneyu` does.

use serde::{Deserialize, Serialize};

/// How often the bootstrap draws.
pub const RESAMPLES: usize = 10_000;
/// Where its random numbers begin.
pub const SEED: u64 = 0x6d69_6467_6520_3a29;
/// Below this, two samples are said to differ.
pub const ALPHA: f64 = 0.05;
/// Up to so many samples on one side the test's distribution is counted out.
const COUNTED: usize = 8;

/// What there is to say of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many numbers.
    pub count: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation of the sample (with n - 1); none for one number.
    pub deviation: Option<f64>,
    /// Median.
    pub median: f64,
    /// 95th percentile, between the two nearest numbers in proportion (as numpy's default).
    pub p95: f64,
    /// Least.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// 95 % bootstrap interval of the median; none for fewer than three numbers, which it could tell nothing of.
    pub interval: Option<(f64, f64)>,
}

impl Summary {
    /// Of these numbers; none where there are none, or where one is no number.
    #[must_use]
    pub fn of(sample: &[f64]) -> Option<Self> {
        let sorted = sorted(sample)?;
        let count = sorted.len();
        let mean = mean(&sorted);
        let squares: f64 = sorted.iter().map(|x| (x - mean).powi(2)).sum();
        Some(Self {
            count,
            mean,
            deviation: (count > 1).then(|| (squares / as_f64(count - 1)).sqrt()),
            median: quantile(&sorted, 0.5),
            p95: quantile(&sorted, 0.95),
            min: sorted[0],
            max: sorted[count - 1],
            interval: (count > 2).then(|| bootstrap(&[&sorted], |draw| quantile(draw[0], 0.5))),
        })
    }
}

/// What the comparison of two samples says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The second's median less the first's.
    pub of_medians: f64,
    /// 95 % bootstrap interval of that.
    pub interval: (f64, f64),
    /// Probability that samples of one and the same distribution are as far apart as these, or further (Mann-Whitney, two-sided).
    pub p: f64,
}

impl Difference {
    /// From the first to the second; none where there are so few numbers that the test could not tell any difference: fewer than three on a
    /// side, or three against three or four.
    #[must_use]
    pub fn between(first: &[f64], second: &[f64]) -> Option<Self> {
        let (first, second) = (sorted(first)?, sorted(second)?);
        if first.len() < 3 || second.len() < 3 || least_p(first.len(), second.len()) >= ALPHA {
            return None;
        }
        let of_medians = |a: &[f64], b: &[f64]| quantile(b, 0.5) - quantile(a, 0.5);
        Some(Self {
            of_medians: of_medians(&first, &second),
            interval: bootstrap(&[&first, &second], |draw| of_medians(draw[0], draw[1])),
            p: mann_whitney(&first, &second),
        })
    }

    /// Whether that is more than noise, as far as the test can tell.
    #[must_use]
    pub fn is_real(&self) -> bool {
        self.p < ALPHA
    }
}

/// The least that the test can say of samples of these sizes: two of all ways to mix them have them quite apart.
fn least_p(first: usize, second: usize) -> f64 {
    2.0 / (1..=first).map(|i| as_f64(second + i) / as_f64(i)).product::<f64>()
}

fn sorted(sample: &[f64]) -> Option<Vec<f64>> {
    if sample.is_empty() || sample.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let mut sorted = sample.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some(sorted)
}

fn mean(sample: &[f64]) -> f64 {
    sample.iter().sum::<f64>() / as_f64(sample.len())
}

#[allow(clippy::cast_precision_loss, reason = "numbers of samples")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

/// The quantile `q` of sorted numbers, of which there is at least one: linear between the two nearest (Hyndman, Fan 1996, type 7).
#[must_use]
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * as_f64(sorted.len() - 1);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to the length")]
    let below = place.floor() as usize;
    let (low, high) = (sorted[below], sorted[(below + 1).min(sorted.len() - 1)]);
    low + (high - low) * (place - place.floor())
}

/// The 95 % percentile interval of a statistic of samples that are drawn anew, each from itself. What is handed to it is sorted.
fn bootstrap(samples: &[&[f64]], statistic: impl Fn(&[&[f64]]) -> f64) -> (f64, f64) {
    let mut random = Random(SEED);
    let mut draws: Vec<Vec<f64>> = samples.iter().map(|sample| sample.to_vec()).collect();
    let mut found = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        for (draw, sample) in draws.iter_mut().zip(samples) {
            for x in draw.iter_mut() {
                *x = sample[random.below(sample.len())];
            }
            draw.sort_by(f64::total_cmp);
        }
        let draws: Vec<&[f64]> = draws.iter().map(Vec::as_slice).collect();
        found.push(statistic(&draws));
    }
    found.sort_by(f64::total_cmp);
    (quantile(&found, 0.025), quantile(&found, 0.975))
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, good enough for drawing samples, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// An index below `end` (Lemire's multiplication; its bias is below 2^-50 here).
    fn below(&mut self, end: usize) -> usize {
        let product = u128::from(self.next()) * (end as u128);
        usize::try_from(product >> 64).unwrap_or_default()
    }
}

/// The two-sided p of the test of Mann and Whitney (1947). As scipy's `method="auto"`: counted out where one side has at most eight
/// numbers and none come twice, else by the normal distribution with the corrections for ties and continuity.
#[must_use]
pub fn mann_whitney(first: &[f64], second: &[f64]) -> f64 {
    let (n, m) = (first.len(), second.len());
    let mut all: Vec<(f64, bool)> =
        first.iter().map(|x| (*x, true)).chain(second.iter().map(|x| (*x, false))).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut rank_sum, mut ties, mut at) = (0.0, 0.0, 0);
    while at < all.len() {
        let same = all[at..].iter().take_while(|x| x.0.total_cmp(&all[at].0).is_eq()).count();
        let rank = as_f64(2 * at + same + 1) / 2.0;
        rank_sum += rank * as_f64(all[at..at + same].iter().filter(|x| x.1).count());
        ties += as_f64(same).powi(3) - as_f64(same);
        at += same;
    }
    let (fn_, fm) = (as_f64(n), as_f64(m));
    let u = rank_sum - fn_ * (fn_ + 1.0) / 2.0;
    let larger = u.max(fn_ * fm - u);
    if n.min(m) <= COUNTED && ties == 0.0 {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole, as there are no ties"
        )]
        return (2.0 * at_least(n, m, larger as usize)).min(1.0);
    }
    let total = fn_ + fm;
    let variance = fn_ * fm / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    if variance <= 0.0 {
        // All numbers are the same.
        return 1.0;
    }
    let z = (larger - fn_ * fm / 2.0 - 0.5) / variance.sqrt();
    erfc(z / std::f64::consts::SQRT_2).min(1.0)
}

/// The probability that U of `n` and `m` numbers without ties is at least `u`: of all ways to lay the numbers out, those that do, by
/// Mann and Whitney's own recurrence.
fn at_least(n: usize, m: usize, u: usize) -> f64 {
    // ways[j][v]: layouts of the numbers so far with j of the first sample and U = v.
    let mut ways = vec![vec![0.0; n * m + 1]; n + 1];
    ways[0][0] = 1.0;
    for placed in 1..=n + m {
        let before = ways.clone();
        for j in 0..=n.min(placed) {
            for v in 0..=n * m {
                // The last number is of the second sample, or of the first, above all so far of the second.
                let second = if placed > j && placed - j <= m { before[j][v] } else { 0.0 };
                let above = placed - j;
                let first = if j > 0 && above <= m && v >= above { before[j - 1][v - above] } else { 0.0 };
                ways[j][v] = second + first;
            }
        }
    }
    let total: f64 = ways[n].iter().sum();
    ways[n][u.min(n * m + 1)..].iter().sum::<f64>() / total
}

/// The complementary error function, to about 1e-13: the series of erf near zero, the continued fraction further out (Abramowitz,
/// Stegun 7.1.5 and 7.1.14).
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.5 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while f64::abs(term) > 1e-17 * f64::abs(sum) && n < 200.0 {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let fraction = (1..=120).rev().fold(0.0, |below, k| as_f64(k) / 2.0 / (x + below));
    (-x * x).exp() / ((x + fraction) * std::f64::consts::PI.sqrt())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * (1.0 + b.abs())
    }

    #[test]
    fn known_answers() {
        let s = Summary::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((s.count, s.mean, s.median, s.min, s.max), (4, 2.5, 2.5, 1.0, 4.0));
        assert!(close(s.deviation.unwrap(), (5.0_f64 / 3.0).sqrt()) && close(s.p95, 3.85));
        assert_eq!(Summary::of(&[7.0]).unwrap().deviation, None);
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn the_interval_is_the_same_each_time_and_holds_the_median() {
        let sample = [10.0, 11.0, 9.5, 10.2, 30.0, 10.1, 9.9, 10.4, 10.3, 9.8];
        let (a, b) = (Summary::of(&sample).unwrap(), Summary::of(&sample).unwrap());
        assert_eq!(a, b);
        let (low, high) = a.interval.unwrap();
        assert!(9.5 <= low && low <= a.median && a.median <= high && high < 30.0, "{low} {high}");
        assert_eq!(Summary::of(&[5.0; 4]).unwrap().interval, Some((5.0, 5.0)));
    }

    /// Tables of the distribution of U: for 3 against 3, the most extreme of 20 layouts; for 5 against 5, U = 2 (Mann, Whitney 1947).
    #[test]
    fn few_samples_are_counted_out() {
        assert!(close(mann_whitney(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 0.1));
        let p = mann_whitney(&[1.0, 2.0, 3.0, 4.0, 8.0], &[5.0, 6.0, 7.0, 9.0, 10.0]);
        assert!(close(p, 2.0 * 7.0 / 252.0), "{p}");
        let p = mann_whitney(&[1.0, 4.0], &[2.0, 3.0]);
        assert!(close(p, 1.0), "{p}");
    }

    #[test]
    fn what_is_the_same_does_not_differ_and_what_is_apart_does() {
        let (a, b): (Vec<f64>, Vec<f64>) = (1..=10).map(|i| (f64::from(i), f64::from(i) + 20.0)).unzip();
        let same = Difference::between(&a, &a).unwrap();
        assert!(!same.is_real() && close(same.of_medians, 0.0));
        let apart = Difference::between(&a, &b).unwrap();
        assert!(apart.is_real() && close(apart.of_medians, 20.0) && apart.interval.0 > 10.0);
        assert!(close(Difference::between(&[5.0; 9], &[5.0; 9]).unwrap().p, 1.0));
        assert_eq!(Difference::between(&a, &b[..2]), None);
    }

    #[test]
    fn the_error_function_has_its_published_values() {
        // Abramowitz, Stegun, table 7.1; the last from 7.1.23.
        for (x, y) in [(0.0, 1.0), (0.5, 0.479_500_122), (1.0, 0.157_299_207), (2.0, 0.004_677_735)] {
            assert!((erfc(x) - y).abs() < 1e-9, "{x}: {}", erfc(x));
        }
        assert!((erfc(3.0) / 2.209_049_7e-5 - 1.0).abs() < 1e-7);
        assert!(close(erfc(-1.0), 2.0 - erfc(1.0)) && (erfc(2.499_999) - erfc(2.5)).abs() < 1e-8);
    }

    /// Against numpy and scipy, where the Python of this machine has them (Debian: python3-scipy). The test's own Python can be named
    /// in `MIDGE_TEST_PYTHON`.
    #[test]
    fn scipy_agrees_where_it_is_installed() {
        const SCRIPT: &str = r#"
import json, sys
try:
    import numpy as np
    from scipy import stats
except ImportError as e:
    print("absent:", e); sys.exit(0)
def answers(a, b):
    return [np.mean(a), np.std(a, ddof=1), np.median(a), np.percentile(a, 95), stats.mannwhitneyu(a, b).pvalue]
print(json.dumps([answers(a, b) for a, b in json.loads(sys.argv[1])]))
"#;
        let python = std::env::var("MIDGE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let mut random = Random(7);
        // With ties where it is so.
        let mut pair = |n: usize, m: usize, ties: bool| {
            let mut draw = |count: usize, shift: f64| -> Vec<f64> {
                let numbers = (0..count).map(|_| as_f64(random.below(1 << 20)) / 8.0 + shift);
                numbers.map(|x| if ties { (x / 20_000.0).round() } else { x }).collect()
            };
            (draw(n, 0.0), draw(m, 25_000.0))
        };
        let pairs =
            [(5, 7, false), (8, 12, false), (10, 10, false), (30, 25, false), (12, 9, true), (6, 6, true)];
        let pairs = pairs.map(|(n, m, ties)| pair(n, m, ties));
        let input = serde_json::to_string(&pairs).unwrap();
        let Ok(output) = Command::new(&python).args(["-c", SCRIPT, &input]).output() else {
            println!("not compared with scipy: there is no {python}");
            return;
        };
        let said = String::from_utf8(output.stdout).unwrap();
        if said.starts_with("absent:") {
            println!("not compared with scipy: {said}");
            return;
        }
        let theirs: Vec<[f64; 5]> = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
        for ((a, b), theirs) in pairs.iter().zip(&theirs) {
            let s = Summary::of(a).unwrap();
            let ours = [s.mean, s.deviation.unwrap(), s.median, s.p95, mann_whitney(a, b)];
            assert!(ours.iter().zip(theirs).all(|(a, b)| close(*a, *b)), "{a:?} {b:?}: {ours:?} {theirs:?}");
        }
    }

    proptest! {
        // Each case draws ten thousand samples.
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_sample_is_in_order(sample in prop::collection::vec(-1e6..1e6_f64, 1..12)) {
            let s = Summary::of(&sample).unwrap();
            prop_assert!(s.min <= s.median && s.median <= s.p95 && s.p95 <= s.max);
            if let Some((low, high)) = s.interval {
                prop_assert!(s.min <= low && low <= high && high <= s.max);
            }
        }

        #[test]
        fn the_test_knows_no_direction(a in prop::collection::vec(0..30_i32, 3..12), b in prop::collection::vec(0..30_i32, 3..12)) {
            let floats = |x: &[i32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
            let (a, b) = (floats(&a), floats(&b));
            let p = mann_whitney(&a, &b);
            prop_assert!(p > 0.0 && p <= 1.0 && close(p, mann_whitney(&b, &a)), "{}", p);
        }
    }
}
