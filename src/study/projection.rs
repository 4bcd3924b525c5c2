//! The picture of Müller, Kornblith, Hinton 2019, "When does label smoothing help?", section 2: what the last layer
//! sees of three classes, projected onto the plane through the three classes' weights.

use crate::parse::to_json;

/// Which images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// Those trained on.
    Train,
    /// Those of the test set.
    Test,
}

impl Set {
    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// An image in the plane of three classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Projected {
    /// Where it is from.
    pub set: Set,
    /// Its class: 0, 1 or 2.
    pub class: u32,
    /// Along the line from the first class's weight to the second's.
    pub x: f64,
    /// Across it, on the third's side.
    pub y: f64,
}

/// Coordinates of `features` (`[images, inputs]`, row-major) in the plane through three `templates` (a row of the last
/// layer's weight each, `[inputs]`), in an orthonormal basis whose first axis points from the first template to the
/// second and whose origin is the first template.
///
/// Templates on one line have no plane: what has no direction is 0 then.
///
/// # Panics
/// If the templates are not of one length, or the features not of whole rows of it.
pub fn project(templates: [&[f64]; 3], features: &[f64]) -> Vec<[f64; 2]> {
    let origin = templates[0];
    assert!(templates.iter().all(|t| t.len() == origin.len()) && features.len().is_multiple_of(origin.len()));
    let from_origin = |v: &[f64]| v.iter().zip(origin).map(|(v, o)| v - o).collect::<Vec<f64>>();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let length = |v: &[f64]| dot(v, v).sqrt();
    // What is left of `whole` by rounding alone has no direction.
    let unit = |v: Vec<f64>, whole: f64| {
        let length = length(&v);
        v.into_iter().map(|v| if length > 1e-12 * whole { v / length } else { 0.0 }).collect::<Vec<f64>>()
    };
    let first = unit(from_origin(templates[1]), length(templates[1]));
    let second = from_origin(templates[2]);
    let (along, whole) = (dot(&second, &first), length(&second));
    let second = unit(second.iter().zip(&first).map(|(v, f)| v - along * f).collect(), whole);
    let coordinates = |row: &[f64]| {
        let row = from_origin(row);
        [dot(&row, &first), dot(&row, &second)]
    };
    features.chunks(origin.len()).map(coordinates).collect()
}

/// The columns of a file of projected images.
const COLUMNS: &str = "set,class,x,y";

/// As CSV, a line an image.
pub fn to_csv(images: &[Projected]) -> String {
    let mut text = format!("{COLUMNS}\n");
    for Projected { set, class, x, y } in images {
        // A number as JSON has it reads back to the same bits.
        text += &format!("{},{class},{},{}\n", set.name(), to_json(x), to_json(y));
    }
    text
}

/// What [`to_csv`] wrote.
///
/// # Errors
/// What was found and what was expected, for a line that [`to_csv`] does not write.
pub fn from_csv(text: &str) -> Result<Vec<Projected>, String> {
    let mut lines = text.lines().enumerate();
    let image = |line: &str| {
        let [set, class, x, y] = line.split(',').collect::<Vec<_>>().try_into().ok()?;
        let set = [Set::Train, Set::Test].into_iter().find(|known| known.name() == set)?;
        Some(Projected { set, class: class.parse().ok()?, x: x.parse().ok()?, y: y.parse().ok()? })
    };
    let wrong = |i: usize, line: &str, expected: &str| format!("line {}: found {line:?}, expected {expected}", i + 1);
    match lines.next() {
        Some((_, COLUMNS)) => {}
        other => return Err(wrong(0, other.map_or("", |(_, line)| line), COLUMNS)),
    }
    lines.map(|(i, line)| image(line).ok_or_else(|| wrong(i, line, "train or test, a class, two numbers"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_in_the_plane_are_kept_and_what_is_beside_it_is_dropped() {
        let templates: [&[f64]; 3] = [&[1.0, 0.0, 2.0], &[4.0, 0.0, 2.0], &[2.0, 5.0, 2.0]];
        let features = [templates[0], templates[1], templates[2], &[4.0, 5.0, 9.0]].concat();
        let expected = [[0.0, 0.0], [3.0, 0.0], [1.0, 5.0], [3.0, 5.0]];
        for (found, expected) in project(templates, &features).iter().zip(expected) {
            assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-12), "{found:?}, expected {expected:?}");
        }
    }

    /// Catches a file of an earlier version that cannot be read any more, and a number that loses bits.
    #[test]
    fn a_file_reads_back_to_the_same_images() {
        let images = [
            Projected { set: Set::Train, class: 0, x: 1.0, y: -2.5e-7 },
            Projected { set: Set::Test, class: 2, x: 0.1 + 0.2, y: 1234.5 },
        ];
        let text = "set,class,x,y\ntrain,0,1.0,-2.5e-7\ntest,2,0.30000000000000004,1234.5\n";
        assert_eq!((to_csv(&images), from_csv(text)), (text.to_owned(), Ok(images.to_vec())));
        for bad in ["", "set,class,x\n", "set,class,x,y\nval,0,1,2\n", "set,class,x,y\ntrain,0,1\n"] {
            assert!(from_csv(bad).unwrap_err().contains("expected"), "{bad}");
        }
    }

    #[test]
    fn three_templates_on_a_line() {
        let on_line: [&[f64]; 3] = [&[0.0, 0.0], &[1.0, 1.0], &[2.0, 2.0]];
        let found = project(on_line, &[3.0, 3.0]);
        assert!((found[0][0] - 18f64.sqrt()).abs() < 1e-12 && found[0][1].abs() < 1e-12, "{found:?}");
        assert_eq!(project([&[1.0], &[1.0], &[1.0]], &[5.0]), [[0.0, 0.0]]);
        // Large ones are on a line up to rounding, which is small beside them and not beside 1.
        let large = [1e9, 3e9, 7e9];
        let found = project([&[0.0; 3], &large, &large.map(|v| v * 1.1)], &[0.0, 0.0, 1e9]);
        assert_eq!(found[0][1], 0.0, "{found:?}");
    }
}
