//! What a compiler for AMD's GPUs makes of every kernel, without such a GPU: a table for each family, and the cycles
//! that a training step needs at least. For developers.
//!
//! `cargo bench --bench isa -- --batch 1024`; `--help` lists what it takes.

mod lens;

use std::fmt::Write;
use std::path::PathBuf;

use lens::work::{self, Work};
use lens::{Code, Compiled, FAMILIES};

const HELP: &str = "cargo bench --bench isa -- [FLAG VALUE]...
  --family NAME        NAVI21, GFX1100, NAVI10 or VEGA10, as RADV calls them; both of the first two by default
  --batch N            images in a batch: 64
  --compute-units N    of the GPU that the floor is for: 72 (an RX 6800 XT; an RX 7900 XTX has 96)
  --dump FOLDER        leave the machine code of every pass there, in a folder for each family
  --save FILE          write the table as CSV

A row is a dispatch of a training step of the seed network, or a pass that no step has:
  groups           workgroups of 64 threads. A current GPU runs several hundred at once; fewer leave a part of it idle
  regs, spill      vector registers of a thread, and those that lie in memory instead: in a loop that is slow
  shared, code     bytes of workgroup memory, and of instructions. The instruction cache holds 32 KB
  waves            how many a SIMD holds at once, times the threads of one. Many of them hide the time that loads take
  ops, ops/thrd    the dispatch's part of the step's operations, and the operations of one thread
  kcycles          thousands of cycles that the vector units need at least for the loop with most products. It knows
                   nothing of memory, of caches, or of the other loops
  loops            for each loop, without the loops in it, how many of its instructions are multiply-adds";

struct Settings {
    families: Vec<String>,
    batch: usize,
    compute_units: u64,
    dump: Option<PathBuf>,
    save: Option<PathBuf>,
}

fn settings(args: impl Iterator<Item = String>) -> Result<Settings, String> {
    let families = FAMILIES.map(String::from).to_vec();
    let mut settings = Settings { families, batch: 64, compute_units: 72, dump: None, save: None };
    // Cargo adds it to what a bench is run with.
    let mut args = args.filter(|arg| arg != "--bench");
    while let Some(flag) = args.next() {
        if flag == "--help" {
            return Err(HELP.into());
        }
        let value = args.next().ok_or_else(|| format!("{flag}: found nothing, expected a value\n{HELP}"))?;
        let number = || {
            let number = value.parse::<u32>().ok().filter(|&n| n > 0);
            number.ok_or_else(|| format!("{flag}: found {value}, expected a number above 0"))
        };
        match flag.as_str() {
            "--family" => settings.families = vec![value],
            "--batch" => settings.batch = number()? as usize,
            "--compute-units" => settings.compute_units = number()?.into(),
            "--dump" => settings.dump = Some(value.into()),
            "--save" => settings.save = Some(value.into()),
            _ => return Err(format!("{flag}: no such flag\n{HELP}")),
        }
    }
    Ok(settings)
}

fn main() {
    if lens::child() {
        return;
    }
    if lens::radv().is_none() {
        println!("skipped: Mesa's driver for AMD is not here (Debian: mesa-vulkan-drivers)");
        return;
    }
    if let Err(error) = settings(std::env::args().skip(1)).and_then(|settings| run(&settings)) {
        eprintln!("{error}");
        std::process::exit(2);
    }
}

fn run(settings: &Settings) -> Result<(), String> {
    let mut csv = String::from(
        "family,driver,batch,form,dispatch,pass,workgroups,registers,spilled,workgroup_memory,code_bytes,waves,wave,\
         flops,flops_share,flops_a_thread,hot_instructions,hot_multiply_adds,hot_share,floor_cycles\n",
    );
    for family in &settings.families {
        let dump = settings.dump.as_ref().map(|folder| folder.join(family));
        if let Some(folder) = &dump {
            std::fs::create_dir_all(folder).map_err(|error| format!("--dump {}: {error}", folder.display()))?;
        }
        let compiled = lens::compile(family, &[], dump.as_deref()).map_err(|error| format!("{family}: {error}"))?;
        println!(
            "\n{} for {family}, batch {}, {} compute units",
            compiled.driver, settings.batch, settings.compute_units
        );
        print(settings, &compiled, &mut csv);
    }
    if let Some(path) = &settings.save {
        std::fs::write(path, csv).map_err(|error| format!("--save {}: {error}", path.display()))?;
    }
    Ok(())
}

/// The passes that no step of the seed network has, so that the table has them all.
fn others(compiled: &Compiled, steps: &[Work]) -> Vec<Work> {
    let rest = compiled.passes.iter().filter(|code| steps.iter().all(|work| work.pass != code.pass));
    let work = |code: &Code| {
        let (dispatch, pass) = (String::new(), code.pass.clone());
        Work { form: "other", dispatch, pass, groups: 0, threads: 0, flops: 0, share: 0.0 }
    };
    rest.map(work).collect()
}

fn print(settings: &Settings, compiled: &Compiled, csv: &mut String) {
    let mut steps = work::steps(settings.batch);
    steps.extend(others(compiled, &steps));
    println!(
        "{:<34} {:<38} {:>6} {:>5} {:>5} {:>6} {:>6} {:>5} {:>5} {:>9} {:>8}  loops: multiply-adds of instructions",
        "dispatch", "pass", "groups", "regs", "spill", "shared", "code", "waves", "ops", "ops/thrd", "kcycles"
    );
    let mut form = "";
    for work in &steps {
        if work.form != form {
            form = work.form;
            let floors = steps.iter().filter(|work| work.form == form);
            let floors = floors.filter_map(|work| work.floor(work.code(compiled)?, settings.compute_units));
            let kilo = floors.sum::<f64>() / 1e3;
            println!(
                "- {form}{}",
                if form == "other" { String::new() } else { format!(": {kilo:.1} kcycles at least") }
            );
        }
        let Some(code) = work.code(compiled) else { continue };
        let floor = work.floor(code, settings.compute_units).filter(|_| work.flops > 0);
        let count = |n: u64| if n > 0 { n.to_string() } else { "-".into() };
        let kilo = floor.map_or("-".into(), |cycles| format!("{:.1}", cycles / 1e3));
        let per_thread = if work.flops > 0 { format!("{:.0}", work.flops_a_thread()) } else { "-".into() };
        let loops = code.loops.iter().map(|l| format!("{:.0}% of {}", 100.0 * l.share(), l.instructions));
        println!(
            "{:<34} {:<38} {:>6} {:>5} {:>5} {:>6} {:>6} {:>5} {:>5} {per_thread:>9} {kilo:>8}  {}",
            work.dispatch,
            format!("{}.{}", code.pass.0, code.pass.1),
            count(work.groups),
            code.registers,
            code.spilled,
            code.workgroup_memory,
            code.bytes,
            format!("{}x{}", code.waves, code.wave),
            if work.flops > 0 { format!("{:.1}%", 100.0 * work.share) } else { "-".into() },
            loops.collect::<Vec<_>>().join(", ")
        );
        line(csv, settings.batch, compiled, work, code, floor);
    }
}

fn line(csv: &mut String, batch: usize, compiled: &Compiled, work: &Work, code: &Code, floor: Option<f64>) {
    let hot = code.hot();
    let optional = |n: Option<f64>, digits: usize| n.map(|n| format!("{n:.digits$}")).unwrap_or_default();
    let per_thread = (work.flops > 0).then(|| work.flops_a_thread());
    writeln!(
        csv,
        "{},{},{batch},{},{},{}.{},{},{},{},{},{},{},{},{},{:.4},{},{},{},{},{}",
        compiled.family,
        compiled.driver,
        work.form,
        work.dispatch,
        code.pass.0,
        code.pass.1,
        work.groups,
        code.registers,
        code.spilled,
        code.workgroup_memory,
        code.bytes,
        code.waves,
        code.wave,
        work.flops,
        work.share,
        optional(per_thread, 0),
        optional(hot.map(|hot| hot.instructions as f64), 0),
        optional(hot.map(|hot| hot.multiply_adds as f64), 0),
        optional(hot.map(|hot| hot.share()), 3),
        optional(floor, 0),
    )
    .expect("a string takes everything");
}
