//! One picture: what its header says, and how it becomes an image of a set.
//!
//! PNG, JPEG, WebP, BMP, TIFF and the first frame of a GIF are told by their content, whatever the file is called. A
//! picture is turned as its EXIF orientation says. Then, as Pillow's `convert` does it, it becomes grey (ITU-R 601-2,
//! [`luma`]) or RGB, and its alpha channel is dropped. 16 bits become 8 by scaling. Last it is brought to its size
//! ([`CropMode`]) by a bilinear filter that is as wide as the reduction asks for (antialiased), as torchvision's
//! `Resize` has it.

use std::io::Cursor;
use std::path::Path;

use image::imageops::{FilterType, crop_imm, resize};
use image::metadata::Orientation;
use image::{
    DynamicImage, ExtendedColorType, GrayImage, ImageBuffer, ImageDecoder, ImageReader, Limits, Luma, Pixel, RgbImage,
};

use super::format::CropMode;
use crate::{Error, Result, input};

/// The most pixels of a picture: what a phone's largest camera takes. A header can claim any number.
pub const MOST_PIXELS: u64 = 1 << 27;

/// The most bytes of a picture's file.
pub const MOST_BYTES: u64 = 1 << 30;

/// The most bytes that a decoder may take: of [`MOST_PIXELS`] in RGBA of 16 bits.
const MOST_MEMORY: u64 = 8 * MOST_PIXELS;

/// What a picture should be, for errors.
pub(super) const KINDS: &str = "a PNG, JPEG, WebP, BMP, GIF or TIFF";

/// What a picture's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Height and width, after its orientation.
    pub size: [usize; 2],
    /// Whether it has no colours.
    pub grey: bool,
}

/// The bytes of a picture's file.
///
/// # Errors
/// [`Error::Data`] where there is no regular file of at most [`MOST_BYTES`]; [`Error::Io`].
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>> {
    input::read(path, MOST_BYTES, "a picture")
}

/// The bytes of an image of `shape` (channels, 1 or 3, height, width), plane by plane, that the picture in the file at
/// `path` becomes.
///
/// # Errors
/// [`Error::Data`] where the file is missing, damaged, no picture, or larger than [`MOST_PIXELS`]; [`Error::Io`].
pub fn read(path: &Path, shape: [usize; 3], crop_mode: CropMode) -> Result<Vec<u8>> {
    decode(&bytes(path)?, shape, crop_mode).map_err(|message| Error::data(path, message))
}

/// What the header of a picture says; what is wrong with it otherwise.
///
/// # Errors
/// Text for a person, without the file's name.
pub(super) fn header(bytes: &[u8]) -> Result<Header, String> {
    let (decoder, orientation) = open(bytes)?;
    let (w, h) = decoder.dimensions();
    let turned = matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    );
    let size = if turned { [w, h] } else { [h, w] };
    // What the file has: of a palette a decoder makes colours.
    let grey = match decoder.original_color_type() {
        ExtendedColorType::L1
        | ExtendedColorType::L2
        | ExtendedColorType::L4
        | ExtendedColorType::L8
        | ExtendedColorType::L16
        | ExtendedColorType::La1
        | ExtendedColorType::La2
        | ExtendedColorType::La4
        | ExtendedColorType::La8
        | ExtendedColorType::La16 => true,
        _ => matches!(decoder.color_type().into(), ExtendedColorType::L8 | ExtendedColorType::L16),
    };
    Ok(Header { size: size.map(|side| side as usize), grey })
}

/// [`read()`] of a file's bytes.
///
/// # Errors
/// Text for a person, without the file's name.
pub(super) fn decode(bytes: &[u8], [channels, h, w]: [usize; 3], crop_mode: CropMode) -> Result<Vec<u8>, String> {
    let (decoder, orientation) = open(bytes)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| what(&error))?;
    picture.apply_orientation(orientation);
    Ok(match channels {
        1 => fit(grey(picture), [h, w], crop_mode).into_raw(),
        _ => planes(&fit(picture.into_rgb8(), [h, w], crop_mode)),
    })
}

/// A picture's decoder, within limits, and how it is to be turned.
fn open(bytes: &[u8]) -> Result<(impl ImageDecoder + '_, Orientation), String> {
    if bytes.is_empty() {
        return Err(format!("found an empty file, expected {KINDS}"));
    }
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    // Nothing fails in memory.
    let mut reader = reader.map_err(|error| format!("found {error}"))?;
    if reader.format().is_none() {
        return Err(format!("found another kind of file, expected {KINDS}"));
    }
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MOST_MEMORY);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| what(&error))?;
    let (w, h) = decoder.dimensions();
    if w == 0 || h == 0 {
        return Err(format!("found a picture of {h}x{w} pixels, expected at least 1x1"));
    }
    if u64::from(w) * u64::from(h) > MOST_PIXELS {
        return Err(format!("found a header that claims {h}x{w} pixels, expected at most {MOST_PIXELS} in all"));
    }
    // A picture without a readable note on its orientation has none.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((decoder, orientation))
}

/// A decoder's complaint in one line.
fn what(error: &image::ImageError) -> String {
    let text = error.to_string();
    format!("found a damaged picture: {}", text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// What a colour is worth in grey, ITU-R 601-2 in 16 bits: `0.299 r + 0.587 g + 0.114 b`. The same as Pillow's.
pub fn luma([r, g, b]: [u8; 3]) -> u8 {
    let [r, g, b] = [r, g, b].map(u32::from);
    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
}

fn grey(picture: DynamicImage) -> GrayImage {
    if !picture.color().has_color() {
        return picture.into_luma8();
    }
    let colours = picture.into_rgb8();
    let (w, h) = colours.dimensions();
    let values = colours.pixels().map(|pixel| luma(pixel.0)).collect();
    GrayImage::from_raw(w, h, values).expect("a value a pixel")
}

/// The picture in `size` (height, width).
pub(super) fn fit<P>(picture: ImageBuffer<P, Vec<u8>>, size: [usize; 2], crop_mode: CropMode) -> ImageBuffer<P, Vec<u8>>
where
    P: Pixel<Subpixel = u8> + 'static,
{
    let [h, w] = size.map(|side| side as u32);
    let (found_w, found_h) = picture.dimensions();
    if (found_w, found_h) == (w, h) {
        return picture;
    }
    // How much a side of the image has for a pixel of the picture.
    let (x, y) = (f64::from(w) / f64::from(found_w), f64::from(h) / f64::from(found_h));
    let part = |side: u32, factor: f64, most: u32| ((f64::from(side) / factor).round() as u32).clamp(1, most);
    match crop_mode {
        CropMode::Squash => resize(&picture, w, h, FilterType::Triangle),
        CropMode::Center => {
            // What the image will show is cut out first: a long, thin picture never grows.
            let factor = x.max(y);
            let (cut_w, cut_h) = (part(w, factor, found_w), part(h, factor, found_h));
            let (left, top) = ((found_w - cut_w) / 2, (found_h - cut_h) / 2);
            let cut = crop_imm(&picture, left, top, cut_w, cut_h).to_image();
            if (cut_w, cut_h) == (w, h) { cut } else { resize(&cut, w, h, FilterType::Triangle) }
        }
        CropMode::Border => {
            let factor = x.min(y);
            let (whole_w, whole_h) = (part(found_w, 1.0 / factor, w), part(found_h, 1.0 / factor, h));
            let whole = resize(&picture, whole_w, whole_h, FilterType::Triangle);
            // Zero is black.
            let mut image = ImageBuffer::new(w, h);
            let (left, top) = ((w - whole_w) / 2, (h - whole_h) / 2);
            image::imageops::replace(&mut image, &whole, left.into(), top.into());
            image
        }
    }
}

/// A colour picture's bytes, plane by plane.
pub(super) fn planes(picture: &RgbImage) -> Vec<u8> {
    (0..3).flat_map(|channel| picture.pixels().map(move |pixel| pixel.0[channel])).collect()
}

/// An image's bytes, plane by plane, as `shape` (channels, height, width) says, brought to another `size` and number of
/// channels.
pub(super) fn refit(planes_of: &[u8], shape: [usize; 3], to: [usize; 3], crop_mode: CropMode) -> Vec<u8> {
    let [c, h, w] = shape;
    let n = h * w;
    let size = (w as u32, h as u32);
    let colour = |i: usize| [planes_of[i], planes_of[(c / 2 * n) + i], planes_of[(c - 1) * n + i]];
    if to[0] == 1 {
        let values = (0..n).map(|i| if c == 1 { planes_of[i] } else { luma(colour(i)) }).collect();
        let picture: ImageBuffer<Luma<u8>, _> = ImageBuffer::from_raw(size.0, size.1, values).expect("a value a pixel");
        fit(picture, [to[1], to[2]], crop_mode).into_raw()
    } else {
        let picture = RgbImage::from_raw(size.0, size.1, (0..n).flat_map(colour).collect()).expect("3 values a pixel");
        planes(&fit(picture, [to[1], to[2]], crop_mode))
    }
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Rgb, Rgba};

    use super::*;

    fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(vec![]);
        picture.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn gradient(w: u32, h: u32) -> RgbImage {
        RgbImage::from_fn(w, h, |x, y| Rgb([(x * 7) as u8, (y * 11) as u8, (x * y) as u8]))
    }

    /// Catches planes in another order, a format that is not built in, and a format that is told by a file's name.
    #[test]
    fn every_lossless_kind_gives_the_same_planes() {
        let picture = gradient(6, 5);
        let expected = planes(&picture);
        assert_eq!(expected[..2], [0, 7], "the first row of red");
        for kind in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
            let bytes = encoded(picture.clone(), kind);
            assert_eq!(header(&bytes).unwrap(), Header { size: [5, 6], grey: false }, "{kind:?}");
            assert_eq!(decode(&bytes, [3, 5, 6], CropMode::Center).unwrap(), expected, "{kind:?}");
        }
        let jpeg = encoded(picture.clone(), ImageFormat::Jpeg);
        assert_eq!(header(&jpeg).unwrap().size, [5, 6]);
        assert_eq!(decode(&jpeg, [3, 5, 6], CropMode::Center).unwrap().len(), 90);
        let gif = encoded(picture, ImageFormat::Gif);
        assert_eq!(header(&gif).unwrap(), Header { size: [5, 6], grey: false });
    }

    /// Catches an alpha channel that is mixed in, 16 bits that are cut, and a luma of other weights.
    #[test]
    fn depths_and_channels_become_what_pillow_makes_of_them() {
        let clear = image::RgbaImage::from_pixel(1, 1, Rgba([200, 100, 50, 0]));
        let bytes = encoded(clear, ImageFormat::Png);
        assert_eq!(decode(&bytes, [3, 1, 1], CropMode::Center).unwrap(), [200, 100, 50]);
        // Pillow 11: Image.new("RGB", (1, 1), (200, 100, 50)).convert("L").getpixel((0, 0))
        assert_eq!(decode(&bytes, [1, 1, 1], CropMode::Center).unwrap(), [124]);
        let deep: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::from_raw(2, 1, vec![65535, 257 * 77]).unwrap();
        let bytes = encoded(DynamicImage::ImageLuma16(deep), ImageFormat::Png);
        assert!(header(&bytes).unwrap().grey);
        assert_eq!(decode(&bytes, [1, 1, 2], CropMode::Center).unwrap(), [255, 77]);
        assert_eq!(decode(&bytes, [3, 1, 2], CropMode::Center).unwrap(), [255, 77, 255, 77, 255, 77]);
    }

    /// An orientation that is forgotten turns every photograph of a phone that was held upright.
    #[test]
    fn a_photograph_is_turned_as_its_exif_says() {
        let mut tiff = encoded(gradient(3, 2), ImageFormat::Jpeg);
        // APP1 with one entry, orientation 6: the first row of the file is the right side.
        let exif = b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let plain = decode(&tiff, [1, 2, 3], CropMode::Center).unwrap();
        tiff.splice(2..2, exif.iter().copied());
        assert_eq!(header(&tiff).unwrap().size, [3, 2]);
        let turned = decode(&tiff, [1, 3, 2], CropMode::Center).unwrap();
        let expected: Vec<u8> = (0..3).flat_map(|x| [plain[3 + x], plain[x]]).collect();
        assert_eq!(turned, expected);
    }

    #[test]
    fn what_is_no_picture_is_said() {
        let refused = |bytes: &[u8]| decode(bytes, [3, 4, 4], CropMode::Center).unwrap_err();
        assert_eq!(refused(b""), "found an empty file, expected a PNG, JPEG, WebP, BMP, GIF or TIFF");
        assert!(refused(b"hello, world").starts_with("found another kind of file"));
        let whole = encoded(gradient(40, 40), ImageFormat::Png);
        assert!(refused(&whole[..whole.len() / 2]).starts_with("found a damaged picture: "));
        // A header of 100 bytes that claims 2^31 pixels.
        let mut claims = whole[..100.min(whole.len())].to_vec();
        claims[16..24].copy_from_slice(&[0, 0, 0x80, 0, 0, 1, 0, 0]);
        let mut crc = flate2::Crc::new();
        crc.update(&claims[12..29]);
        claims[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        assert_eq!(
            refused(&claims),
            "found a header that claims 65536x32768 pixels, expected at most 134217728 in all"
        );
        assert_eq!(header(&claims).unwrap_err(), refused(&claims));
    }

    /// Catches a mode that shifts, mirrors, or scales where nothing is to be scaled.
    #[test]
    fn crop_modes_cut_fill_and_squash() {
        let picture = gradient(6, 2);
        let red = |image: &RgbImage| image.pixels().map(|pixel| pixel.0[0]).collect::<Vec<_>>();
        // 2x6 to 2x2: the middle, untouched.
        assert_eq!(red(&fit(picture.clone(), [2, 2], CropMode::Center)), [14, 21, 14, 21]);
        // Three to one: black above and below.
        let border = fit(RgbImage::from_pixel(6, 2, Rgb([9; 3])), [6, 6], CropMode::Border);
        assert_eq!(red(&border), [vec![0; 12], vec![9; 12], vec![0; 12]].concat());
        let squashed = fit(picture.clone(), [2, 3], CropMode::Squash);
        assert_eq!(squashed.dimensions(), (3, 2));
        // A thin line does not become a wall of memory on the way.
        let line = GrayImage::from_pixel(1, 1 << 20, Luma([5]));
        for mode in [CropMode::Center, CropMode::Border, CropMode::Squash] {
            assert_eq!(fit(line.clone(), [8, 8], mode).dimensions(), (8, 8), "{mode:?}");
        }
        assert_eq!(fit(picture.clone(), [2, 6], CropMode::Squash), picture);
    }

    /// The filter must be antialiased: a chequered pattern becomes grey, not black or white.
    #[test]
    fn a_reduction_averages() {
        let chequered = GrayImage::from_fn(64, 64, |x, y| Luma([if (x + y) % 2 == 0 { 255 } else { 0 }]));
        let small = fit(chequered, [8, 8], CropMode::Squash);
        assert!(small.pixels().all(|pixel| (126..=129).contains(&pixel.0[0])), "{small:?}");
    }

    #[test]
    fn an_image_is_refitted_as_a_picture_is() {
        let picture = gradient(6, 4);
        let image = planes(&picture);
        assert_eq!(refit(&image, [3, 4, 6], [3, 4, 6], CropMode::Center), image);
        let grey: Vec<u8> = picture.pixels().map(|pixel| luma(pixel.0)).collect();
        assert_eq!(refit(&image, [3, 4, 6], [1, 4, 6], CropMode::Center), grey);
        assert_eq!(refit(&grey, [1, 4, 6], [3, 4, 6], CropMode::Center), [&grey[..], &grey, &grey].concat());
        let small = planes(&fit(picture, [2, 2], CropMode::Center));
        assert_eq!(refit(&image, [3, 4, 6], [3, 2, 2], CropMode::Center), small);
    }
}
