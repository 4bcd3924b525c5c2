//! The drawings of runs: curves over the epochs, and the reliability diagram, as SVG.

use plotters::element::DashedPathElement;
use plotters::prelude::*;

use super::plots::{Drawing, GRID, INK, PANEL, colour, consistent, span, svg};
use crate::Result;
use crate::measure::calibration::Bin;
use crate::train::lr_find::Rates;

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stroke {
    /// Of images that are held out, or of the test set.
    Whole,
    /// Of the training.
    Dashed,
    /// Of the weights' moving average, on the images of a whole line.
    Dotted,
}

/// A line of a drawing.
pub struct Line {
    /// Which of the colours.
    pub colour: usize,
    /// How it is drawn.
    pub stroke: Stroke,
    /// x and y of its points.
    pub points: Vec<(f64, f64)>,
}

/// Lines over the epochs. `marked` is an epoch that answers for the run.
///
/// # Errors
/// [`crate::Error::Report`] if it cannot be drawn.
pub fn curves(title: &str, lines: &[Line], marked: Option<usize>) -> Result<String> {
    let all = || lines.iter().flat_map(|line| &line.points);
    let last = all().map(|(x, _)| *x).fold(1.0, f64::max);
    let (x, y) = (0.0..last * 1.04, span(all().map(|(_, y)| *y)));
    svg(PANEL, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .caption(title, ("sans-serif", 15).into_font().color(&INK))
            .x_label_area_size(34)
            .y_label_area_size(48)
            .build_cartesian_2d(x, y.clone())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_desc("epoch")
            // Whole epochs only.
            .x_labels((last as usize + 1).min(6))
            .x_label_formatter(&|epoch| format!("{epoch:.0}"))
            .y_labels(6)
            .label_style(("sans-serif", 12).into_font().color(&INK))
            .draw()?;
        if let Some(epoch) = marked {
            let at = epoch as f64;
            chart.draw_series([DashedPathElement::new([(at, y.start), (at, y.end)], 2, 4, INK)])?;
        }
        for Line { colour: which, stroke, points } in lines {
            let ink = colour(*which);
            let pattern = match stroke {
                Stroke::Whole => None,
                Stroke::Dashed => Some([5, 4]),
                Stroke::Dotted => Some([2, 3]),
            };
            if let Some([drawn, left_out]) = pattern {
                chart.draw_series([DashedPathElement::new(points.clone(), drawn, left_out, ink.stroke_width(2))])?;
            } else {
                chart.draw_series(LineSeries::new(points.iter().copied(), ink.stroke_width(2)))?;
            }
            // One point makes no line.
            if points.len() == 1 {
                chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, ink.filled())))?;
            }
        }
        Ok(())
    })
}

/// The smoothed losses of a range test over its rates, and each step's own as dots. A dotted line is at the suggestion.
///
/// # Errors
/// [`crate::Error::Report`] if it cannot be drawn.
pub fn rates(found: &Rates) -> Result<String> {
    let ends = |which: fn(f64, f64) -> f64| found.steps.iter().map(|step| step.lr).reduce(which).unwrap_or(1.0);
    let x = ends(f64::min)..ends(f64::max).max(ends(f64::min) * 1.01);
    // A loss beyond the smoothed ones would leave them no room.
    let y = span(found.steps.iter().map(|step| step.smoothed));
    svg((700, 420), |area| {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .caption("range test", ("sans-serif", 16).into_font().color(&INK))
            .x_label_area_size(38)
            .y_label_area_size(52)
            .build_cartesian_2d(x.log_scale(), y.clone())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_desc("learning rate")
            .y_desc("loss")
            .x_label_formatter(&|lr| format!("{lr:.0e}"))
            .label_style(("sans-serif", 12).into_font().color(&INK))
            .draw()?;
        let dots = found.steps.iter().filter(|step| y.contains(&step.loss));
        chart.draw_series(dots.map(|step| Circle::new((step.lr, step.loss), 2, colour(5).filled())))?;
        let line = found.steps.iter().map(|step| (step.lr, step.smoothed));
        chart.draw_series(LineSeries::new(line, colour(0).stroke_width(2)))?;
        if let Some(lr) = found.suggestion {
            chart.draw_series([DashedPathElement::new([(lr, y.start), (lr, y.end)], 2, 4, INK)])?;
        }
        Ok(())
    })
}

/// The reliability diagram: a bar for each bin as high as its share of right answers, the diagonal, where confidence is
/// true, in grey where a true one would let the bar end ([`Bin::consistent`]), and below it the share of the images in
/// each bin.
///
/// # Errors
/// [`crate::Error::Report`] if it cannot be drawn.
pub fn reliability(title: &str, bins: &[Bin]) -> Result<String> {
    let images: usize = bins.iter().map(|bin| bin.images).sum();
    let width = 1.0 / bins.len() as f64;
    let bars = |height: fn(&Bin, f64) -> f64| -> Vec<_> {
        let bar = |(i, bin): (usize, &Bin)| (i as f64 * width, (i + 1) as f64 * width, height(bin, images as f64));
        bins.iter().enumerate().filter(|(_, bin)| bin.images > 0).map(bar).collect()
    };
    svg((PANEL.0, 380), |area| {
        let (above, below) = area.split_vertically(280);
        let mut chart = ChartBuilder::on(&above)
            .margin(8)
            .caption(title, ("sans-serif", 15).into_font().color(&INK))
            .x_label_area_size(24)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..1.0, 0.0..1.0)?;
        let small = || ("sans-serif", 12).into_font().color(&INK);
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .y_desc("accuracy")
            .x_labels(5)
            .y_labels(5)
            .label_style(small())
            .draw()?;
        draw_bars(&mut chart, bars(|bin, _| bin.accuracy))?;
        chart.draw_series(consistent(bins, 1))?;
        chart.draw_series([DashedPathElement::new([(0.0, 0.0), (1.0, 1.0)], 4, 4, INK)])?;
        let shares = bars(|bin, images| bin.images as f64 / images);
        let most = shares.iter().map(|(.., share)| *share).fold(0.01, f64::max);
        let mut chart = ChartBuilder::on(&below)
            .margin(8)
            .x_label_area_size(34)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..1.0, 0.0..most)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_desc("confidence")
            .y_desc("images")
            .x_labels(5)
            .y_labels(2)
            .y_label_formatter(&|share| format!("{:.0}%", 100.0 * share))
            .label_style(small())
            .draw()?;
        draw_bars(&mut chart, shares)
    })
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

/// Bars from 0 up: left, right, height.
fn draw_bars(chart: &mut Chart, bars: Vec<(f64, f64, f64)>) -> Result<(), Drawing> {
    let bar = |(left, right, height)| {
        let mut bar = Rectangle::new([(left, 0.0), (right, height)], colour(0).mix(0.75).filled());
        bar.set_margin(0, 0, 1, 1);
        bar
    };
    chart.draw_series(bars.into_iter().map(bar))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::lr_find::Tried;

    #[test]
    fn a_range_test_is_drawn_however_short_it_is() {
        let tried = |lr: f64, loss: f64| Tried { lr, loss, smoothed: loss };
        let steps = [tried(1e-4, 2.0), tried(1e-3, 1.0), tried(1e-2, 9.0)];
        for n in 0..=3 {
            let found = Rates { steps: steps[..n].to_vec(), suggestion: (n > 1).then_some(1e-3), ended_early: false };
            let svg = rates(&found).unwrap();
            assert!(svg.starts_with("<svg") && !svg.contains("NaN"), "{n}: {svg}");
        }
    }

    #[test]
    fn drawings_take_what_there_is() {
        let bin = |images, confidence, accuracy| Bin { images, confidence, accuracy };
        let bins = [bin(0, f64::NAN, f64::NAN), bin(10, 0.6, 0.5), bin(30, 0.9, 1.0)];
        let svg = reliability("bins", &bins).unwrap();
        assert!(svg.starts_with("<svg") && !svg.contains("NaN"), "{svg}");
        let bands = |svg: &str| svg.matches("opacity=\"0.3\"").count();
        assert_eq!(
            (bands(&svg), bands(&reliability("bins", &bins[..2]).unwrap())),
            (2, 1),
            "a band for each bin: {svg}"
        );
        // A run that was stopped in its first epoch has no line; of one epoch it is a dot.
        let of = |points| curves("nll", &[Line { colour: 1, stroke: Stroke::Whole, points }], Some(1)).unwrap();
        assert!(!of(vec![]).contains("circle") && of(vec![(1.0, 0.5)]).contains("circle"));
        assert!(!of(vec![]).contains("NaN"));
    }
}
