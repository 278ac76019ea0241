#include "textflag.h"

// func observe()
//
// The callback that NSCQ calls by C's rules for x86-64 (System V ABI, AMD64
// Architecture Processor Supplement, section 3.2.3): DI points at the device's
// UUID, SI is a result code of 8 bits, the value is a structure passed whole on
// the stack above the return address, and DX is the buffer of type observed.
// It is a leaf without calls, on C's stack, and touches only registers that a
// C function may.
TEXT ·observe(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ 0(DX), AX             // entries so far
	CMPQ AX, $16               // wire.MaxDevices
	JAE  full
	TESTQ DI, DI
	JZ   full
	MOVQ 8(DX), CX             // bytes of a value
	LEAQ 32(CX), R8            // bytes of an entry
	IMULQ AX, R8
	LEAQ 16(DX)(R8*1), R9      // the entry
	MOVOU (DI), X0
	MOVOU X0, 0(R9)            // UUID
	MOVBQSX SI, R10
	MOVQ R10, 16(R9)           // result
	LEAQ 32(R9), DI
	LEAQ 8(SP), SI
	CLD
	REP; MOVSB
full:
	INCQ 0(DX)                 // also what had no room is counted
	RET

// observeAddress is where C calls.
DATA ·observeAddress(SB)/8, $·observe(SB)
GLOBL ·observeAddress(SB), RODATA, $8
