//! Where the numbers of one image lie in its part of a buffer.

/// Element `(channel, row, column)` is at `origin + channel * channel_stride + row * row_stride + column *
/// column_stride`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLayout {
    /// Channels, height, width.
    pub dims: [usize; 3],
    /// Where element (0, 0, 0) is.
    pub origin: usize,
    /// From a channel to the next.
    pub channel_stride: usize,
    /// From a row to the next.
    pub row_stride: usize,
    /// From a column to the next.
    pub column_stride: usize,
    /// From an image to the next.
    pub len: usize,
}

impl ImageLayout {
    /// Channel by channel, as PyTorch's contiguous tensors and every layer but a convolution have it.
    pub fn planes([channels, h, w]: [usize; 3]) -> Self {
        Self {
            dims: [channels, h, w],
            origin: 0,
            channel_stride: h * w,
            row_stride: w,
            column_stride: 1,
            len: channels * h * w,
        }
    }

    /// Whether it is that of [`Self::planes`].
    pub fn is_planes(&self) -> bool {
        *self == Self::planes(self.dims)
    }

    /// Pixel by pixel, with a border of `padding` zero pixels, `column_stride` values a pixel of which the first
    /// `channels` are used, and `slack` values after the last pixel that may be read but mean nothing.
    pub fn pixels([channels, h, w]: [usize; 3], [above, left]: [usize; 2], column_stride: usize, slack: usize) -> Self {
        let row_stride = (w + 2 * left) * column_stride;
        Self {
            dims: [channels, h, w],
            origin: above * row_stride + left * column_stride,
            channel_stride: 1,
            row_stride,
            column_stride,
            len: (h + 2 * above) * row_stride + slack,
        }
    }

    /// Rows above the image and columns left of it, of an image that lies pixel by pixel.
    pub fn border(&self) -> [usize; 2] {
        let left = (self.row_stride / self.column_stride - self.dims[2]) / 2;
        [(self.origin - left * self.column_stride) / self.row_stride, left]
    }

    /// Writes `zero` to the border of an image that lies pixel by pixel.
    pub fn clear_border<T: Copy>(&self, image: &mut [T], zero: T) {
        let [above, left] = self.border();
        let (row, side) = (self.row_stride, left * self.column_stride);
        for (i, row) in image.chunks_mut(row).enumerate() {
            match (above..above + self.dims[1]).contains(&i) {
                true => {
                    row[..side].fill(zero);
                    row[side + self.dims[2] * self.column_stride..].fill(zero);
                }
                false => row.fill(zero),
            }
        }
    }

    /// Where the element is.
    #[inline(always)]
    pub fn at(&self, channel: usize, row: usize, column: usize) -> usize {
        self.origin + channel * self.channel_stride + row * self.row_stride + column * self.column_stride
    }

    /// Calls `each([channel, row, column], index)` for every element, in planes' order.
    pub fn for_each(&self, mut each: impl FnMut([usize; 3], usize)) {
        let [channels, h, w] = self.dims;
        for c in 0..channels {
            for i in 0..h {
                for j in 0..w {
                    each([c, i, j], self.at(c, i, j));
                }
            }
        }
    }

    /// Writes an image given channel by channel. Borders are left as they are.
    pub fn write<T: Copy>(&self, planes: &[T], image: &mut [T]) {
        let mut planes = planes.iter();
        self.for_each(|_, at| image[at] = *planes.next().expect("an element for each"));
    }

    /// Reads an image into channel-by-channel order.
    pub fn read<T: Copy>(&self, image: &[T], planes: &mut [T]) {
        let mut planes = planes.iter_mut();
        self.for_each(|_, at| *planes.next().expect("an element for each") = image[at]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_the_border_stays_zero() {
        let dims = [3, 4, 5];
        let planes: Vec<f32> = (1..=60).map(|v| v as f32).collect();
        let layout = ImageLayout::pixels(dims, [2, 1], 8, 3);
        assert_eq!(layout.border(), [2, 1]);
        let mut image = vec![0.0; layout.len];
        layout.write(&planes, &mut image);
        let mut back = vec![0.0; 60];
        layout.read(&image, &mut back);
        assert_eq!(back, planes);
        assert_eq!(image.iter().filter(|&&v| v != 0.0).count(), 60);
        assert_eq!(image.len(), 8 * 7 * 8 + 3);
        let mut cleared: Vec<f32> = image.iter().map(|v| v + 100.0).collect();
        layout.clear_border(&mut cleared, 0.0);
        layout.read(&cleared, &mut back);
        assert!(back.iter().zip(&planes).all(|(found, v)| *found == v + 100.0));
        // Of the pixels inside, all eight places stay.
        assert_eq!(cleared.iter().filter(|&&v| v != 0.0).count(), 4 * 5 * 8);
        assert_eq!(ImageLayout::planes(dims).at(2, 3, 4), 59);
    }
}
