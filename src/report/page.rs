//! What the pages share: their frame, their style, cards, pictures, and the words that they explain.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::png;
use crate::data::sheet::ContactSheet;

/// What every page says of itself, by which the program knows its own again.
pub const MADE_BY: &str = "<meta name=\"generator\" content=\"smoothcnn\">";

/// A whole page: one file, without anything from elsewhere.
pub fn page(title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                (PreEscaped(MADE_BY))
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body { main { (body) } }
        }
    }
    .into_string()
}

/// An answer: what it is, the answer itself, and what is to know of it.
pub fn card(name: &str, value: &str, about: &Markup) -> Markup {
    html! { div.card { div.name { (name) } div.value { (value) } div.about { (about) } } }
}

/// Drawings side by side, or below each other where there is no room.
pub fn drawings(pictures: &[String]) -> Markup {
    html! { div.drawings { @for picture in pictures { (PreEscaped(picture)) } } }
}

/// Which colour of a drawing is what.
pub fn legend(names: &[&str]) -> Markup {
    html! {
        @if names.len() > 1 {
            p.legend { @for (i, name) in names.iter().enumerate() { span class=(format!("line{}", i % 6)) { (name) } " " } }
        }
    }
}

/// A table that is wider than a phone is moved within its own frame.
pub fn scrolled(table: &Markup) -> Markup {
    html! { div.scroll { (table) } }
}

/// A picture of `[channels, height, width]` bytes as the address of an image: grey for one channel, RGB for three, else
/// the first. One that is larger than 128 pixels on a side is made smaller.
pub fn picture(bytes: &[u8], [c, h, w]: [usize; 3]) -> String {
    const MOST: usize = 128;
    let channels = if c == 3 { 3 } else { 1 };
    let pixel = |i: usize| (0..channels).map(move |channel| bytes[channel * h * w + i]);
    let pixels: Vec<u8> = (0..h * w).flat_map(pixel).collect();
    let longest = h.max(w);
    if longest <= MOST {
        return address(&ContactSheet { width: w, height: h, channels, pixels });
    }
    let size = |side: usize| (side * MOST / longest).max(1);
    let (height, width) = (size(h), size(w));
    let of = "as many pixels as are stated";
    let pixels = if channels == 3 {
        let image = image::RgbImage::from_raw(w as u32, h as u32, pixels).expect(of);
        image::imageops::thumbnail(&image, width as u32, height as u32).into_raw()
    } else {
        let image = image::GrayImage::from_raw(w as u32, h as u32, pixels).expect(of);
        image::imageops::thumbnail(&image, width as u32, height as u32).into_raw()
    };
    address(&ContactSheet { width, height, channels, pixels })
}

/// The picture as the address of an image, with all that it is in it.
fn address(picture: &ContactSheet) -> String {
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png(picture)))
}

/// `97.2 %`; with two digits above 99 %, where one would hide what is left to gain.
pub fn percent(share: f64) -> String {
    let digits = if share > 0.99 && share < 1.0 { 2 } else { 1 };
    // The space keeps both on one line.
    format!("{:.digits$}\u{a0}%", 100.0 * share)
}

/// A number of images with its noun.
pub fn images(n: usize) -> String {
    if n == 1 { "1 image".into() } else { format!("{n} images") }
}

/// What every measure is, in a line.
const GLOSSARY: [(&str, &str); 15] = [
    ("accuracy", "the share of the images whose most probable class is the right one; error is the rest"),
    ("interval", "95 %: where the accuracy on all such images may be, by how many test images there are"),
    ("loss", "what training makes small: cross-entropy against the smoothed target, in nats"),
    ("nll", "plain cross-entropy, -ln of the probability that the right class gets; comparable between losses"),
    ("excess", "the loss less the least that the smoothed target allows; 0 is a perfect fit"),
    ("confidence", "the probability of the answer; its mean is to be the accuracy"),
    ("ECE", "expected calibration error: by how much confidence and accuracy differ, over 15 bins of confidence"),
    (
        "reliability diagram",
        "the accuracy at each confidence; on the diagonal the confidence is true. Grey: where a true one would let the \
         bar end, or the dot be, in 95 of 100 test sets (runs of several seeds together: at least 95)",
    ),
    ("temperature", "the logits are divided by it, which changes the confidence and no answer"),
    ("precision", "of the images that are answered with a class, the share that is of it"),
    ("recall", "of the images of a class, the share that is answered with it"),
    ("F1", "the harmonic mean of precision and recall"),
    ("Brier score", "squared distance of the probabilities from the truth, summed over the classes; 0 to 2"),
    ("AURC", "the error among the surest images, over all shares of them; what refusing unsure images would cost"),
    ("label smoothing", "the right class's target is 1 - e instead of 1, and e is spread over the classes"),
];

/// The words and what they mean, folded away until they are asked for.
pub fn glossary() -> Markup {
    html! {
        details {
            summary { "What the words mean" }
            dl.glossary { @for (word, what) in GLOSSARY { dt { (word) } dd { (what) } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_known_again_and_needs_nothing_else() {
        let page = page("a <b>", &html! { p { "x" } });
        assert!(page.contains(MADE_BY) && page.contains("a &lt;b&gt;"), "{page}");
        assert!(!page.contains("http"), "a page loads nothing");
    }

    #[test]
    fn colours_stay_and_large_pictures_shrink() {
        let decoded = |address: &str| {
            let png = BASE64_STANDARD.decode(address.strip_prefix("data:image/png;base64,").unwrap()).unwrap();
            image::load_from_memory(&png).unwrap()
        };
        let small = decoded(&picture(&[1, 2, 10, 20, 100, 200], [3, 1, 2])).to_rgb8();
        assert_eq!((small.dimensions(), small.into_raw()), ((2, 1), vec![1, 10, 100, 2, 20, 200]));
        let large = decoded(&picture(&vec![7; 300 * 600], [1, 300, 600])).to_luma8();
        assert_eq!((large.dimensions(), large.get_pixel(0, 0).0), ((128, 64), [7]));
    }

    #[test]
    fn what_is_left_to_gain_is_seen() {
        assert_eq!([0.5, 0.9934, 1.0].map(percent), ["50.0\u{a0}%", "99.34\u{a0}%", "100.0\u{a0}%"]);
    }
}
