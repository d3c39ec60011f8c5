//! The kernels' arithmetic on f32 against the CPU's: products, quotients and inverses, also where a driver divides with
//! an error or flushes subnormals.

use wgpu_kv_cache::{CacheConfig, Context, Format, HostRows, KvCache, ReferenceCache, Write};

use crate::{DONE, Gpu, Outcome, Test, formats::compare};

pub const TESTS: &[Test] = &[
    ("arithmetic::products_and_quotients_are_rounded_as_on_the_cpu", products_and_quotients_are_rounded_as_on_the_cpu),
    ("arithmetic::quotients_of_a_driver_that_divides_with_an_error", quotients_of_a_driver_that_divides_with_an_error),
    (
        "arithmetic::reciprocals_of_a_driver_that_divides_with_an_error",
        reciprocals_of_a_driver_that_divides_with_an_error,
    ),
    ("arithmetic::products_of_a_driver_that_flushes_subnormals", products_of_a_driver_that_flushes_subnormals),
];

/// A generator of random words. Equal seeds give equal words.
pub fn random_words(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    }
}

/// Compares the kernels' integer arithmetic with the CPU's, through the scale of fp8. Codes check quotients as far as
/// their few bits can. Products are those of every code with scales of every size, and are subnormal, rounded or
/// infinite.
fn products_and_quotients_are_rounded_as_on_the_cpu(gpu: &Gpu) -> Outcome {
    let mut random = random_words(1);
    let mut scales: Vec<f32> = vec![1e-45, 3e-42, f32::MIN_POSITIVE, 1e-38, f32::MAX, 1.5, 1.0 / 3.0, 8_388_609.0];
    scales.extend(
        (0..24).map(|_| f32::from_bits(random() & 0x7fff_ffff)).filter(|scale| scale.is_finite() && *scale > 0.0),
    );
    for pair in scales.chunks_exact(2) {
        // Numbers near the edges between codes at this scale, and arbitrary ones.
        let numbers = |scale: f32, random: &mut dyn FnMut() -> u32| -> Vec<f32> {
            (0..1024)
                .map(|index| {
                    let edge = f64::from(index % 127) / 8.0 * f64::from(scale);
                    let bits = if index < 512 { (edge as f32).to_bits() } else { random() };
                    f32::from_bits(bits.wrapping_add(random() % 3).wrapping_sub(1))
                })
                .collect()
        };
        let (keys, values) = (numbers(pair[0], &mut random), numbers(pair[1], &mut random));
        let config =
            CacheConfig::new(1, 1, 32, 32 + 8).formats(Format::Fp8E4M3, Format::Fp8E4M3).scales(pair[0], pair[1]);
        let mut reference = ReferenceCache::new(config)?;
        let mut cache = KvCache::new(&gpu.context, config)?;
        let all: Vec<u8> = (0..=255).collect();
        let codes = HostRows::Stored { format: Format::Fp8E4M3, bytes: &all };
        reference.update(&keys, &values, Write::append(32))?;
        cache.update(&keys, &values, Write::append(32))?;
        reference.update(codes, codes, Write::append(8))?;
        cache.update(codes, codes, Write::append(8))?;
        if let Some(difference) = reference.compare_storage(0, &cache.read_storage()?)? {
            return Err(format!("scales {pair:?}: {difference}").into());
        }
        for format in Format::FLOATS {
            compare(&reference.get_as(0..40, format)?, &cache.get_as(0..40, format)?.read()?)
                .map_err(|difference| format!("scales {pair:?}, as {format}: {difference}"))?;
        }
    }
    DONE
}

/// Runs one workgroup of a kernel for each of its inputs, and returns what its threads wrote.
fn run(context: &Context, text: &str, inputs: &[u8], groups: usize, outputs_of_group: usize) -> Vec<u32> {
    let given = crate::engine::storage(context, inputs);
    let outputs = crate::engine::storage(context, &vec![0; groups * outputs_of_group * 4]);
    let (pipeline, group) = crate::engine::kernel(context, text, &[&given, &outputs]);
    let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(groups as u32, 1, 1);
    }
    context.queue().submit([encoder.finish()]);
    crate::engine::read(context, &outputs)
}

/// A division that errs by some units in the last place.
const DIVIDED: &str = "
    fn divided(a: f32, b: f32, units: i32) -> f32 {
        let quotient = a / b;
        return select(bitcast<f32>(bitcast<i32>(quotient) + units), f32(units) * 1e-30, quotient == 0.0);
    }";

/// WGSL lets a driver divide with an error of 2.5 units in the last place, but software drivers divide exactly. This
/// test adds an error of up to three units to each of the two divisions in the WGSL of the quotient. For half of the
/// numbers the remainder is close to zero or to the divisor, so the quotient must be corrected by one more.
fn quotients_of_a_driver_that_divides_with_an_error(gpu: &Gpu) -> Outcome {
    const ERRORS: usize = 7 * 7;
    let mut text = include_str!("../../shaders/format/float/float.wgsl").to_owned();
    for (division, with_an_error) in [
        ("f32(dividend) / divisor", "divided(f32(dividend), divisor, errors.x)"),
        ("f32(left) / divisor", "divided(f32(left), divisor, errors.y)"),
    ] {
        assert_eq!(text.matches(division).count(), 1, "{division}");
        text = text.replace(division, with_an_error);
    }
    text.push_str(DIVIDED);
    text.push_str(
        "
        var<private> errors: vec2<i32>;
        @group(0) @binding(0) var<storage, read> pairs: array<vec2<u32>>;
        @group(0) @binding(1) var<storage, read_write> quotients: array<u32>;
        @compute @workgroup_size(49) fn main(
            @builtin(workgroup_id) group: vec3<u32>,
            @builtin(local_invocation_index) local: u32,
        ) {
            errors = vec2<i32>(i32(local % 7u), i32(local / 7u)) - 3;
            quotients[group.x * 49u + local] = float_divide(pairs[group.x].x, pairs[group.x].y);
        }",
    );

    let mut random = random_words(3);
    let mut pairs =
        vec![[0.0f32, 3.0], [-0.0, 1e-45], [1e-45, 3.0], [1e-45, f32::MAX], [f32::MAX, 1e-45], [7e-42, 3e-40]];
    while pairs.len() < 2048 {
        let mut exponent = || (1 + random() % 254) << 23;
        let (above, below) = (exponent(), exponent());
        // Choose significands x and y so that 2^24 x, or 2^25 x if x is smaller, leaves the chosen remainder modulo y.
        let y = u64::from(random() & 0x7f_ffff | 0x80_0001);
        let remainder = i64::from(random() % 9) - 4;
        let half = y.div_ceil(2);
        let dividend = y + (0..24).fold(remainder.rem_euclid(y.cast_signed()).cast_unsigned(), |x, _| x * half % y);
        let x = if dividend < 1 << 24 { dividend } else { dividend / 2 };
        if x == dividend || x * 2 == dividend {
            let bits = |significand: u64, exponent: u32| f32::from_bits(significand as u32 & 0x7f_ffff | exponent);
            pairs.push([bits(x, above), -bits(y, below)]);
        }
        let [a, b] = [random(), random()].map(f32::from_bits);
        if a.is_finite() && b.is_finite() && b != 0.0 {
            pairs.push([a, b]);
        }
    }

    let quotients = run(&gpu.context, &text, bytemuck::cast_slice(&pairs), pairs.len(), ERRORS);
    for ([a, b], quotients) in pairs.iter().zip(quotients.chunks_exact(ERRORS)) {
        let expected = (a / b).to_bits();
        for (error, actual) in quotients.iter().enumerate() {
            let errors = [error % 7, error / 7].map(|error| error as i32 - 3);
            assert_eq!(*actual, expected, "{a:?} / {b:?}, divisions that err by {errors:?} units");
        }
    }
    DONE
}

/// As the test above, for the inverses of the scales of blocks.
fn reciprocals_of_a_driver_that_divides_with_an_error(gpu: &Gpu) -> Outcome {
    const ERRORS: usize = 7;
    let division = "1.0 / f32(significand)";
    let text = include_str!("../../shaders/format/float/reciprocal.wgsl");
    assert_eq!(text.matches(division).count(), 1, "{division}");
    let mut text = text.replace(division, "divided(1.0, f32(significand), units)");
    text.push_str(DIVIDED);
    text.push_str(
        "
        var<private> units: i32;
        @group(0) @binding(0) var<storage, read> numbers: array<u32>;
        @group(0) @binding(1) var<storage, read_write> inverses: array<u32>;
        @compute @workgroup_size(7) fn main(
            @builtin(workgroup_id) group: vec3<u32>,
            @builtin(local_invocation_index) local: u32,
        ) {
            units = i32(local) - 3;
            inverses[group.x * 7u + local] = float_reciprocal(numbers[group.x]);
        }",
    );
    let mut random = random_words(9);
    // Powers of two, their neighbours, and any number whose inverse is normal, infinite ones included.
    let mut numbers: Vec<f32> = (0..253).map(|biased| f32::from_bits(biased << 23)).collect();
    numbers.extend([22, 21, 20, 1, 0].map(|bit| f32::from_bits(1 << bit)));
    numbers.extend(numbers.clone().iter().flat_map(|number| [number.next_up(), number.next_down().abs()]));
    while numbers.len() < 16_384 {
        numbers.push(f32::from_bits(random() % (253 << 23)));
    }
    // Significands whose inverses lie closest to half way between two of f32.
    let mut near: Vec<u64> = (1u64 << 23..1 << 24).step_by(1021).collect();
    near.sort_by_key(|significand| {
        let rest = (1u64 << 48) % (2 * significand);
        rest.abs_diff(*significand)
    });
    numbers.extend(near.iter().take(4096).map(|&significand| significand as f32));
    numbers.retain(|number| *number > 0.0);

    let inverses = run(&gpu.context, &text, bytemuck::cast_slice(&numbers), numbers.len(), ERRORS);
    for (number, inverses) in numbers.iter().zip(inverses.chunks_exact(ERRORS)) {
        let expected = 1.0 / number;
        for (error, &actual) in inverses.iter().enumerate() {
            let same = if expected.is_finite() { actual == expected.to_bits() } else { actual >= 0x7f80_0000 };
            assert!(same, "1 / {number:?} is {expected:?}, not {actual:#x}; error {}", error as i32 - 3);
        }
    }
    DONE
}

/// A function of a kernel.
fn function<'a>(text: &'a str, name: &str) -> &'a str {
    let start = text.find(&format!("fn {name}(")).expect("the kernel has the function");
    let end = text[start..].find("\n}\n").expect("it ends");
    &text[start..start + end + 3]
}

/// WGSL lets a driver flush subnormals to zero; those of the tests keep them. This test flushes what is read as a float
/// in the WGSL of products. Blocks have elements that are subnormal, and scales whose inverse is finite.
fn products_of_a_driver_that_flushes_subnormals(gpu: &Gpu) -> Outcome {
    const BLOCK: usize = 64;
    let pack = include_str!("../../shaders/format/blocks/pack.wgsl").to_owned();
    let read = "bitcast<vec4<f32>>(magnitude)";
    let products = function(&pack, "side_products");
    assert_eq!(products.matches(read).count(), 1, "{read}");
    let text = [
        "const SIDE_UNIT = 1u;".to_owned(),
        include_str!("../../shaders/scatter/write/staged.wgsl").to_owned(),
        include_str!("../../shaders/format/float/reciprocal.wgsl").to_owned(),
        function(&pack, "side_inverse").to_owned(),
        products.replace(read, "flushed(magnitude)"),
        "
        fn flushed(bits: vec4<u32>) -> vec4<f32> {
            return bitcast<vec4<f32>>(select(bits, vec4<u32>(), (bits & vec4<u32>(0x7f800000u)) == vec4<u32>()));
        }
        // [block, element]; the first element is the largest of the block, and the scale comes before it
        @group(0) @binding(0) var<storage, read> blocks: array<array<u32, 65>>;
        @group(0) @binding(1) var<storage, read_write> products: array<u32>;
        @compute @workgroup_size(64) fn main(
            @builtin(workgroup_id) group: vec3<u32>,
            @builtin(local_invocation_index) local: u32,
        ) {
            let inverse = side_inverse(blocks[group.x][1], blocks[group.x][0]);
            products[group.x * 64u + local] = side_products(vec4<u32>(blocks[group.x][1u + local]), inverse).x;
        }"
        .to_owned(),
    ]
    .concat();

    let mut random = random_words(11);
    let (mut blocks, mut subnormal) = (Vec::new(), 0);
    for _ in 0..1024 {
        // From 2^-121 on, where a scale has a finite inverse, to 2^-113, where every subnormal has the code 0.
        let largest = f32::from_bits(((6 + random() % 9) << 23) | (random() & 0x7f_ffff));
        let scale = largest / 127.0;
        let below = (0..BLOCK - 1).map(|index| {
            let most = if index % 2 == 0 { f32::MIN_POSITIVE.to_bits() } else { largest.to_bits() };
            f32::from_bits(random() % most)
        });
        let elements: Vec<f32> = std::iter::once(largest).chain(below).collect();
        subnormal +=
            elements.iter().filter(|element| element.is_subnormal() && (**element / scale * 2.0) >= 1.0).count();
        blocks.push(scale);
        blocks.extend(elements);
    }
    assert!(subnormal > 5000, "{subnormal} subnormal elements have a product");
    let products = run(&gpu.context, &text, bytemuck::cast_slice(&blocks), blocks.len() / (BLOCK + 1), BLOCK);
    for (block, products) in blocks.chunks_exact(BLOCK + 1).zip(products.chunks_exact(BLOCK)) {
        let inverse = 1.0 / block[0];
        for (element, &actual) in block[1..].iter().zip(products) {
            // In halves.
            let expected = (element * inverse * 2.0) as u32;
            assert_eq!(actual, expected, "{element:e} × (1 ÷ {:e})", block[0]);
        }
    }
    DONE
}
