// together: the threads of a block find its scale together, and each writes one word of codes. Used if at least one
// side is quantised to blocks. The kernel defines `written`.
//
// Bounds:  all threads of a workgroup reach the barriers; a thread whose place is outside of the chunk reads and writes
//          no buffer.

#import staged.wgsl
#import ../stage/{blocks,none}.wgsl as key, value

fn write_unit(place: Place, unit: u32, local: u32) {
    let run = written(place.run);
    let key = key_stage(place, run, unit, local);
    let value = value_stage(place, run, unit, local);
    workgroupBarrier();
    key_put(place, run, unit, local, key);
    value_put(place, run, unit, local, value);
    workgroupBarrier();
    if place.inside {
        key_finish(place, run, unit, local);
        value_finish(place, run, unit, local);
    }
}
