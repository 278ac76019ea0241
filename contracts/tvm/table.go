package tvm

import (
	"errors"
	"fmt"
)

// WebAssembly Core Specification 2.0, section 5.5 (binary format of modules).
const (
	sectionImport  = 2
	sectionElement = 9
	importFunc     = 0
)

var errWasm = errors.New("malformed wasm module")

// tableImports returns, for the module's function table, which entries are
// imported functions: table index to import number. Only the one shape of
// element segment that Emscripten writes is accepted.
func tableImports(wasm []byte) (map[uint32]uint32, error) {
	r := &wasmReader{b: wasm, pos: 8} // magic and version
	var imported uint32
	hosted := map[uint32]uint32{}
	for r.err == nil && r.pos < len(r.b) {
		id := r.byte()
		size := int(r.uint())
		if r.err != nil || size > len(r.b)-r.pos {
			return nil, errWasm
		}
		body := &wasmReader{b: r.b[r.pos : r.pos+size]}
		r.pos += size
		switch id {
		case sectionImport:
			imported = body.imports()
		case sectionElement:
			body.elements(imported, hosted)
		}
		if body.err != nil {
			return nil, fmt.Errorf("section %d: %w", id, body.err)
		}
	}
	return hosted, r.err
}

type wasmReader struct {
	b   []byte
	pos int
	err error
}

func (r *wasmReader) byte() byte {
	if r.err != nil || r.pos >= len(r.b) {
		r.err = errWasm
		return 0
	}
	r.pos++
	return r.b[r.pos-1]
}

// uint reads an unsigned LEB128 number of at most 32 bits.
func (r *wasmReader) uint() uint32 {
	var v uint64
	for shift := 0; shift < 35; shift += 7 {
		c := r.byte()
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return uint32(v)
		}
	}
	r.err = errWasm
	return 0
}

func (r *wasmReader) skip(n uint32) {
	if r.err != nil || uint64(n) > uint64(len(r.b)-r.pos) {
		r.err = errWasm
		return
	}
	r.pos += int(n)
}

// imports counts the imported functions; the module imports nothing else.
func (r *wasmReader) imports() uint32 {
	n := r.uint()
	for i := uint32(0); i < n && r.err == nil; i++ {
		r.skip(r.uint())
		r.skip(r.uint())
		if r.byte() != importFunc {
			r.err = errWasm
		}
		r.uint()
	}
	return n
}

// elements reads active segments of table 0 with function indexes (flag 0).
func (r *wasmReader) elements(imported uint32, hosted map[uint32]uint32) {
	const i32Const, end = 0x41, 0x0b
	for n := r.uint(); n > 0 && r.err == nil; n-- {
		if r.uint() != 0 || r.byte() != i32Const {
			r.err = errWasm
			return
		}
		offset := r.uint()
		if r.byte() != end {
			r.err = errWasm
			return
		}
		count := r.uint()
		for i := uint32(0); i < count && r.err == nil; i++ {
			if fn := r.uint(); fn < imported {
				hosted[offset+i] = fn
			}
		}
	}
}
