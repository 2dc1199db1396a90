//! The tree as a picture: the mountains of the range, and how their peaks are
//! bagged into the root.
//!
//! ```text
//!                 root
//!          ______/    \
//!         /        __/  \
//!        /\       /      \
//!       /  \     /\       |
//!   2^20 entries  2^4     1
//! ```
//! A mountain's width would double with each step of height; drawn, both grow
//! evenly.

use maud::{Markup, html};
use protocol::hash::Hash;
use protocol::mmr::Mmr;

use super::format::count;

/// Space that a step of height takes.
const STEP: u64 = 9;

/// Space for the lines over the highest peak.
const SKY: u64 = 64;

/// A mountain: where its middle is, its height, how many entries it holds.
struct Mountain<'a> {
    middle: u64,
    half: u64,
    height: u64,
    entries: u64,
    peak: &'a Hash,
}

/// The picture, with all that it says as text beside it.
pub(super) fn picture(mmr: &Mmr) -> Markup {
    let mut mountains = Vec::new();
    let mut left = 4;
    let sizes = (0..64).rev().filter(|bit| mmr.size().get() >> bit & 1 == 1);
    for (height, peak) in sizes.zip(mmr.peaks()) {
        let half = 10 + height * 3;
        mountains.push(Mountain {
            middle: left + half,
            half,
            height: 12 + height * STEP,
            entries: 1 << height,
            peak,
        });
        left += 2 * half + 6;
    }
    let highest = mountains.iter().map(|m| m.height).max().unwrap_or_default();
    let ground = SKY + highest;
    let size = count(mmr.size().get());
    html! {
        figure.tree {
            svg role="img" aria-label=(format!("The tree over {size} entries: {} peaks", mountains.len()))
                viewBox=(format!("0 0 {} {}", left.max(60), ground + 24)) {
                (bagging(&mountains, ground))
                @for m in &mountains {
                    @let top = ground - m.height;
                    path.mountain d=(format!("M{} {ground}L{} {top}L{} {ground}Z", m.middle - m.half, m.middle, m.middle + m.half)) {}
                    circle.peak cx=(m.middle) cy=(top) r="3.5" { title { (m.peak) } }
                    text x=(m.middle) y=(ground + 14) text-anchor="middle" { (short(m.entries)) }
                }
            }
            figcaption.muted.small {
                (size) " entries, " (mountains.len()) " peaks. Each mountain is a perfect tree that "
                "never changes again; the peaks are folded from the right into the root."
            }
        }
    }
}

/// The peaks and what they are of, highest first.
pub(super) fn peaks(mmr: &Mmr) -> Markup {
    let heights = (0..64).rev().filter(|bit| mmr.size().get() >> bit & 1 == 1);
    html! {
        table.rows {
            caption { "Peaks, from the left" }
            thead { tr { th.n scope="col" { "Entries" } th scope="col" { "Hash" } } }
            tbody {
                @for (height, peak) in heights.zip(mmr.peaks()) {
                    tr {
                        td.n.first { (count(1 << height)) }
                        td.whole { code.hash { (peak) } }
                    }
                }
            }
        }
    }
}

/// Lines from each peak, and from what is folded to its right, to where they meet.
fn bagging(mountains: &[Mountain<'_>], ground: u64) -> Markup {
    let Some((last, others)) = mountains.split_last() else {
        return html! {};
    };
    let mut folded = (last.middle, ground - last.height);
    let mut lines = Vec::new();
    let steps = others.len().max(1) as u64;
    for (number, mountain) in (1..).zip(others.iter().rev()) {
        let own = (mountain.middle, ground - mountain.height);
        let level = (SKY - 12) - (SKY - 30) * number / steps;
        let meets = (own.0.midpoint(folded.0), level);
        for from in [own, folded] {
            lines.push(format!("M{} {}L{} {}", from.0, from.1, meets.0, meets.1));
        }
        folded = meets;
    }
    html! {
        path.bagging d=(lines.concat()) {}
        circle.root cx=(folded.0) cy=(folded.1) r="5" {}
        text x=(folded.0) y=(folded.1 - 9) text-anchor="middle" { "root" }
    }
}

/// `1`, `512`, `4k`, `1M` entries: powers of two, in units of 1,024.
fn short(entries: u64) -> String {
    match entries {
        0..1_024 => entries.to_string(),
        1_024..1_048_576 => format!("{}Ki", entries >> 10),
        1_048_576..1_073_741_824 => format!("{}Mi", entries >> 20),
        _ => format!("{}Gi", entries >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peak_is_drawn() {
        let mut mmr = Mmr::EMPTY;
        for size in 0..70_u64 {
            let drawn = picture(&mmr).into_string();
            let peaks = drawn.matches("class=\"peak\"").count();
            assert_eq!(peaks, size.count_ones() as usize, "{size}");
            assert_eq!(drawn.contains(">root<"), size > 0, "{size}");
            for peak in mmr.peaks() {
                assert!(drawn.contains(&peak.to_string()), "{size}");
            }
            mmr.append(Hash::leaf(&size.to_be_bytes()), |_| {});
        }
    }
}
