package tvm

// The minified names of the module with hash WasmSHA256, as its JavaScript
// loader (emulator-emscripten.js of the same package) maps them.

const importModule = "a"

// Exports.
const (
	exportMemory            = "Da"
	exportConstructors      = "Ea"
	exportCreateEmulator    = "Fa"
	exportDestroyEmulator   = "Ga"
	exportEmulate           = "Ha" // emulate_with_emulator
	exportFree              = "Ia"
	exportRunGetMethod      = "Ka"
	exportVersion           = "La"
	exportMalloc            = "Na"
	exportSetThrew          = "Pa"
	exportTempRetSet        = "Qa"
	exportStackRestore      = "Ra"
	exportStackCurrent      = "Ta"
	exportDecrementRefcount = "Ua"
	exportIncrementRefcount = "Va"
	exportCanCatch          = "Wa"
	exportExceptionPtr      = "Xa"
)

// invokeImports are the trampolines invoke_SIGNATURE(table index, arguments…):
// they call through the function table and turn a C++ exception into a flag.
func invokeImports() []string {
	return []string{
		"F", "R", "S", "x", "f", "b", "j", "i", "ea", "l", "q", "n", "Ba", "aa", "ca", "N",
		"wa", "$", "y", "Ca", "I", "t", "p", "xa", "H", "E", "s", "_", "T", "ba", "o", "c",
		"g", "e", "m", "B", "A", "G", "J", "L", "ya", "Aa", "z", "za", "r", "C",
	}
}

// hostImports maps the remaining imports to their implementation.
func hostImports() map[string]hostFunc {
	return map[string]hostFunc{
		"u":  cxaBeginCatch,
		"v":  cxaEndCatch,
		"a":  cxaFindMatchingCatch(0),
		"h":  cxaFindMatchingCatch(1),
		"K":  cxaFindMatchingCatch(2),
		"Q":  cxaFindMatchingCatch(4),
		"Z":  cxaRethrow,
		"k":  cxaThrow,
		"D":  cxaUncaughtExceptions,
		"d":  resumeException,
		"w":  ehTypeidFor,
		"X":  sysBadDescriptor, // fcntl64
		"sa": sysBadDescriptor, // fstat64
		"ha": sysBadDescriptor, // getdents64
		"O":  sysNotTerminal,   // ioctl
		"pa": sysNoSuchFile,    // lstat64
		"qa": sysNoSuchFile,    // newfstatat
		"W":  sysNoSuchFile,    // openat
		"ra": sysNoSuchFile,    // stat64
		"va": abortHost,
		"ta": logFormatted,
		"ja": brokenDownTime,   // gmtime
		"ka": brokenDownTime,   // localtime: the host's zone is not the guest's business
		"ia": sysBadDescriptor, // munmap
		"la": tzset,
		"ua": clockTimeGet,
		"P":  asmConst,
		"Y":  dateNow,
		"ga": heapMax,
		"fa": resizeHeap,
		"na": environGet,
		"oa": environSizesGet,
		"M":  wasiBadDescriptor, // fd_close
		"U":  wasiBadDescriptor, // fd_read
		"ma": wasiBadDescriptor, // fd_seek
		"V":  fdWrite,
		"da": randomGet,
	}
}
