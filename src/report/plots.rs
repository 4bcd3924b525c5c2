//! The pictures of a sweep's report, as SVG, and what all drawings share.
//!
//! Drawings have few colours, each with a meaning; `style.css` replaces them in the dark.

use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::measure::ECE_BINS;
use crate::measure::calibration::{Bin, equal_width};
use crate::study::projection::{Projected, Set};
use crate::study::{self, Measure, Study};
use crate::{Error, Result};

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Told apart by people who see colours differently, too (Okabe and Ito 2008).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
pub(super) const INK: RGBColor = RGBColor(70, 70, 70);
pub(super) const GRID: RGBColor = RGBColor(225, 225, 225);
/// Pixels of a drawing that stands beside others: as wide as a phone.
pub(super) const PANEL: (u32, u32) = (350, 250);

/// The colour of line `i`.
pub(super) fn colour(i: usize) -> RGBColor {
    COLOURS[i % COLOURS.len()]
}

/// Draws into an SVG of `size` pixels.
pub(super) fn svg(size: (u32, u32), draw: impl FnOnce(&Area) -> Result<(), Drawing>) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let failed = |e: Drawing| Error::Report(e.to_string());
        draw(&area).map_err(failed)?;
        area.present().map_err(|e| failed(Box::new(e)))?;
    }
    Ok(text)
}

pub(super) type Drawing = Box<dyn std::error::Error + Send + Sync>;

/// Room about values, so that no mark sits on the frame. `NaN`s do not count.
pub(super) fn span(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let finite = values.filter(|v| v.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return 0.0..1.0;
    }
    let room = if high > low { 0.06 * (high - low) } else { 0.5 * high.abs().max(1e-3) };
    low - room..high + room
}

/// What the curves show.
pub const CURVES: [Measure; 6] =
    [study::TEST_ERROR, study::NLL, study::ECE, study::ECE_SCALED, study::CONFIDENCE, study::AURC];

/// A panel for each of [`CURVES`] over epsilon: a line for each rate of noise, the means with their intervals.
///
/// # Errors
/// [`Error::Report`] if it cannot be drawn.
pub fn curves(study: &Study) -> Result<String> {
    svg((1080, 620), |area| {
        let (panels, legend) = area.split_vertically(590);
        for (panel, measure) in panels.split_evenly((2, 3)).iter().zip(CURVES) {
            curve(panel, study, measure)?;
        }
        let mut x = 60;
        for (i, noise) in study.noises.iter().enumerate() {
            let (y, style) = (12, colour(i).stroke_width(3));
            legend.draw(&PathElement::new([(x, y), (x + 24, y)], style))?;
            let label = format!("label noise {noise}");
            legend.draw(&Text::new(label.clone(), (x + 30, y - 7), ("sans-serif", 14).into_font().color(&INK)))?;
            x += 60 + 8 * label.len() as i32;
        }
        Ok(())
    })
}

/// A drawing for each of [`CURVES`], for a page that arranges them.
///
/// # Errors
/// [`Error::Report`] if it cannot be drawn.
pub fn panels(study: &Study) -> Result<Vec<String>> {
    CURVES.iter().map(|&measure| svg(PANEL, |area| curve(area, study, measure))).collect()
}

fn curve(area: &Area, study: &Study, measure: Measure) -> Result<(), Drawing> {
    let lines: Vec<Vec<_>> = study
        .noises
        .iter()
        .map(|&noise| {
            let of = |&e: &f64| (e, study.of_cell(noise, e, measure));
            study.epsilons.iter().map(of).filter(|(_, cell)| cell.n > 0).collect()
        })
        .collect();
    let all = || lines.iter().flatten();
    let x = span(study.epsilons.iter().copied());
    let y = span(all().flat_map(|(_, cell)| [cell.mean, cell.low, cell.high]));
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .caption(measure.name, ("sans-serif", 16).into_font().color(&INK))
        .x_label_area_size(34)
        .y_label_area_size(52)
        .build_cartesian_2d(x.clone(), y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .x_desc("label smoothing e")
        .x_labels(6)
        .y_labels(6)
        .label_style(("sans-serif", 12).into_font().color(&INK))
        .draw()?;
    // Intervals of different noise at one epsilon stand side by side.
    let shift = (x.end - x.start) * 0.008;
    for (i, line) in lines.iter().enumerate() {
        let by = shift * (i as f64 - (lines.len() - 1) as f64 / 2.0);
        let ink = colour(i);
        chart.draw_series(LineSeries::new(line.iter().map(|(e, cell)| (e + by, cell.mean)), ink.stroke_width(2)))?;
        chart.draw_series(line.iter().map(|(e, cell)| Circle::new((e + by, cell.mean), 3, ink.filled())))?;
        let intervals = line.iter().filter(|(_, cell)| cell.low.is_finite());
        chart.draw_series(
            intervals.map(|(e, cell)| PathElement::new([(e + by, cell.low), (e + by, cell.high)], ink.stroke_width(1))),
        )?;
    }
    Ok(())
}

/// Where the accuracy of each bin may be if its confidence is true ([`Bin::consistent`]), as wide as the bin. Of `runs`
/// runs that answered the same images, and are `pooled`: as of one of them. If all of them answer alike, they know no
/// more than one; otherwise the bands are too wide, and never too narrow.
pub(super) fn consistent(bins: &[Bin], runs: usize) -> Vec<Rectangle<(f64, f64)>> {
    let band = |bin: &Bin| {
        let [low, high] = Bin { images: bin.images / runs, ..*bin }.consistent()?;
        let [left, right] = [0, 1].map(|side| (equal_width(bin.confidence) + side) as f64 / ECE_BINS as f64);
        Some(Rectangle::new([(left, low), (right, high)], INK.mix(0.3).filled()))
    };
    bins.iter().filter_map(band).collect()
}

/// A reliability diagram of `runs` runs together: the share of right answers over the confidence, dots as large as
/// their share of the images, and in grey where a true confidence would let them be.
///
/// # Errors
/// [`Error::Report`] if it cannot be drawn.
pub fn reliability(title: &str, bins: &[Bin], runs: usize) -> Result<String> {
    let images: usize = bins.iter().map(|bin| bin.images).sum();
    svg((260, 280), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .caption(title, ("sans-serif", 14).into_font().color(&INK))
            .x_label_area_size(32)
            .y_label_area_size(40)
            .build_cartesian_2d(0.0..1.0, 0.0..1.0)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_desc("confidence")
            .y_desc("accuracy")
            .x_labels(5)
            .y_labels(5)
            .label_style(("sans-serif", 11).into_font().color(&INK))
            .draw()?;
        chart.draw_series(consistent(bins, runs))?;
        let exact = [(0.0, 0.0), (1.0, 1.0)];
        chart.draw_series([DashedPathElement::new(exact, 4, 4, INK)])?;
        let drawn = || bins.iter().filter(|bin| bin.images > 0);
        let line = drawn().map(|bin| (bin.confidence, bin.accuracy));
        chart.draw_series(LineSeries::new(line, colour(0).stroke_width(1)))?;
        chart.draw_series(drawn().map(|bin| {
            let size = 2.0 + 12.0 * (bin.images as f64 / images as f64).sqrt();
            Circle::new((bin.confidence, bin.accuracy), size as i32, colour(0).mix(0.6).filled())
        }))?;
        Ok(())
    })
}

/// The bins of several runs as those of one.
pub fn pooled<'a>(runs: impl Iterator<Item = &'a [Bin]>) -> Vec<Bin> {
    let mut all = vec![(0usize, 0.0, 0.0); ECE_BINS];
    for bin in runs.flatten().filter(|bin| bin.images > 0) {
        let n = bin.images as f64;
        let sum = &mut all[equal_width(bin.confidence)];
        *sum = (sum.0 + bin.images, sum.1 + n * bin.confidence, sum.2 + n * bin.accuracy);
    }
    let bins = all.into_iter().filter(|&(images, ..)| images > 0);
    bins.map(|(images, confidence, accuracy)| Bin {
        images,
        confidence: confidence / images as f64,
        accuracy: accuracy / images as f64,
    })
    .collect()
}

/// The plane of three classes: a dot an image.
///
/// # Errors
/// [`Error::Report`] if it cannot be drawn.
pub fn projection(title: &str, images: &[Projected], set: Set) -> Result<String> {
    svg((300, 300), |area| {
        // Both sets on one scale, so that their pictures can be laid over each other.
        let (x, y) = (span(images.iter().map(|p| p.x)), span(images.iter().map(|p| p.y)));
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .caption(title, ("sans-serif", 14).into_font().color(&INK))
            .x_label_area_size(22)
            .y_label_area_size(36)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_labels(5)
            .y_labels(5)
            .label_style(("sans-serif", 11).into_font().color(&INK))
            .draw()?;
        let of_set = images.iter().filter(|p| p.set == set);
        chart.draw_series(of_set.map(|p| Circle::new((p.x, p.y), 2, colour(p.class as usize).mix(0.6).filled())))?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooling_adds_up() {
        let bin = |images, confidence, accuracy| Bin { images, confidence, accuracy };
        let runs = [vec![bin(10, 0.95, 1.0), bin(5, 0.5, 0.4)], vec![bin(30, 0.99, 0.8)]];
        let found = pooled(runs.iter().map(Vec::as_slice));
        assert_eq!(found.iter().map(|bin| bin.images).collect::<Vec<_>>(), [5, 40]);
        assert!(
            (found[1].confidence - (9.5 + 29.7) / 40.0).abs() < 1e-12
                && (found[1].accuracy - 34.0 / 40.0).abs() < 1e-12
        );
    }

    /// Catches seeds that are counted as so many test sets.
    #[test]
    fn runs_that_answer_the_same_images_are_no_surer_than_one() {
        let drawn =
            |images, runs| reliability("bins", &[Bin { images, confidence: 0.7, accuracy: 0.7 }], runs).unwrap();
        assert!(drawn(100, 5) == drawn(20, 1) && drawn(100, 1) != drawn(20, 1));
        let bands = |svg: &str| svg.matches("opacity=\"0.3\"").count();
        assert_eq!((bands(&drawn(100, 5)), bands(&drawn(4, 5))), (1, 0), "less than one image has no band");
    }

    #[test]
    fn a_span_has_room_and_survives_what_is_no_number() {
        assert_eq!(span([f64::NAN].into_iter()), 0.0..1.0);
        let one = span([0.0, f64::NAN].into_iter());
        assert!(one.start < 0.0 && one.end > 0.0);
        let two = span([1.0, 2.0].into_iter());
        assert!((two.start - 0.94).abs() < 1e-12 && (two.end - 2.06).abs() < 1e-12);
    }
}
