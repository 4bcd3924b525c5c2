//! A data set at a glance.

use super::Dataset;

/// A picture of some images of each class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactSheet {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1, grey, or 3, RGB.
    pub channels: usize,
    /// `[height, width, channels]`, 0 black, 255 white.
    pub pixels: Vec<u8>,
}

impl ContactSheet {
    /// One row for each class, the first `columns` images of that class from left to right (black where there are
    /// fewer), each pixel drawn as 2x2. Images of 3 channels are in colour; of others it shows the first channel.
    pub fn new(data: &Dataset, columns: usize) -> Self {
        const SCALE: usize = 2;
        let [c, h, w] = data.shape;
        let channels = if c == 3 { 3 } else { 1 };
        let (width, height) = (columns * w * SCALE, data.classes * h * SCALE);
        let mut pixels = vec![0; width * height * channels];
        let mut shown = vec![0; data.classes];
        for (i, &label) in data.labels.iter().enumerate() {
            let (row, column) = (label as usize, shown[label as usize]);
            if column == columns {
                continue;
            }
            shown[row] += 1;
            let image = data.image(i);
            for y in 0..h * SCALE {
                for x in 0..w * SCALE {
                    let at = (row * h * SCALE + y) * width + column * w * SCALE + x;
                    for channel in 0..channels {
                        pixels[at * channels + channel] = image[(channel * h + y / SCALE) * w + x / SCALE];
                    }
                }
            }
        }
        Self { width, height, channels, pixels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_stand_in_the_row_of_their_class() {
        let images = vec![1, 2, 3, 4, 5, 6];
        let data = Dataset { shape: [1, 1, 2], classes: 3, images, labels: vec![2, 0, 2], files: vec![] };
        let sheet = ContactSheet::new(&data, 2);
        assert_eq!((sheet.width, sheet.height, sheet.channels), (8, 6, 1));
        let rows = [[3, 3, 4, 4, 0, 0, 0, 0], [0; 8], [1, 1, 2, 2, 5, 5, 6, 6]];
        assert_eq!(sheet.pixels, [rows[0], rows[0], rows[1], rows[1], rows[2], rows[2]].concat());
    }

    /// Catches planes that are taken for pixels.
    #[test]
    fn colours_are_shown() {
        let images = vec![1, 2, 10, 20, 100, 200];
        let data = Dataset { shape: [3, 1, 2], classes: 1, images, labels: vec![0], files: vec![] };
        let row = [1, 10, 100, 1, 10, 100, 2, 20, 200, 2, 20, 200];
        assert_eq!(ContactSheet::new(&data, 1).pixels, [row, row].concat());
    }
}
