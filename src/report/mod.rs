//! What a run, several runs or a whole sweep came to, as pages to look at: self-contained, light and dark, on a phone
//! too.
//!
//! [`run`] reads and measures a run, [`run_page`] shows it, [`comparison`] puts several side by side. [`collect`]
//! gathers a sweep, [`sweep`] shows it. [`page`] is what the pages share.

mod beside;
pub mod collect;
pub mod comparison;
mod numbers;
pub mod page;
pub mod plots;
pub mod results;
pub mod run;
pub mod run_page;
pub mod run_plots;
pub mod sweep;
mod tutorial;

use image::ImageEncoder;

use crate::data::sheet::ContactSheet;

/// The PNG of a data set's contact sheet.
///
/// # Panics
/// If the picture has not as many pixels as it states, or more than 2^32 on a side.
pub fn png(picture: &ContactSheet) -> Vec<u8> {
    let colours = if picture.channels == 3 { image::ExtendedColorType::Rgb8 } else { image::ExtendedColorType::L8 };
    let mut png = vec![];
    image::codecs::png::PngEncoder::new(&mut png)
        .write_image(&picture.pixels, picture.width as u32, picture.height as u32, colours)
        .expect("a picture of the stated size, written to memory, always encodes");
    png
}
