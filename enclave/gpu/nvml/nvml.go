package nvml

import (
	"encoding/pem"
	"errors"
	"fmt"
	"unsafe"

	"cocoon/enclave/gpu/wire"
)

// The library's structures, by its header. All members are 32-bit or bytes:
// there is no padding.
type systemState struct{ Environment, CC, DevTools uint32 }

type systemSettings struct{ Version, Environment, CC, DevTools, MultiGPU uint32 }

// settingsVersion is NVML_STRUCT_VERSION: the size, and version 1 above it.
const settingsVersion = uint32(unsafe.Sizeof(systemSettings{})) | 1<<24

type certificate struct {
	ChainSize, AttestationChainSize uint32
	Chain                           [0x1000]byte
	AttestationChain                [0x1400]byte
}

type report struct {
	CECPresent, Size, CECSize uint32
	Nonce                     [0x20]byte
	Report                    [0x2000]byte
	CECReport                 [0x1000]byte
}

// State returns what the driver says of itself and its GPUs.
func (l *Library) State() (*wire.State, error) {
	s := &wire.State{GPUs: []wire.GPU{}}
	var err error
	if s.Driver, err = l.text("nvmlSystemGetDriverVersion"); err != nil {
		return nil, err
	}
	if err := l.settings(s); err != nil {
		return nil, err
	}
	ready := new(uint32)
	if err := l.call("nvmlSystemGetConfComputeGpusReadyState", uintptr(unsafe.Pointer(ready))); err != nil {
		return nil, err
	}
	s.Ready = *ready == 1
	err = l.each(func(device uintptr, uuid string) error {
		vbios, err := l.text("nvmlDeviceGetVbiosVersion", device)
		if err != nil {
			return err
		}
		fabric, err := l.fabric(device)
		s.GPUs = append(s.GPUs, wire.GPU{UUID: uuid, VBIOS: vbios, Fabric: fabric})
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// fabricInfo is nvmlGpuFabricInfo_t.
type fabricInfo struct {
	Cluster        [16]byte
	Status, Clique uint32
	State          uint8
}

// States of the fabric (nvmlGpuFabricState_t).
const (
	fabricNotSupported = 0
	fabricCompleted    = 3
)

// fabric says whether a GPU waits for the fabric manager no longer.
func (l *Library) fabric(device uintptr) (bool, error) {
	info := new(fabricInfo)
	err := l.call("nvmlDeviceGetGpuFabricInfo", device, uintptr(unsafe.Pointer(info)))
	var e *wire.Error
	if errors.As(err, &e) && (e.Code == wire.CodeLibrary || e.Result == errNotSupported) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return info.State == fabricNotSupported || info.State == fabricCompleted && info.Status == success, nil
}

// settings reads the mode. Libraries before the settings call know no mode of
// several GPUs; any other failure is one.
func (l *Library) settings(s *wire.State) error {
	set := &systemSettings{Version: settingsVersion}
	err := l.call("nvmlSystemGetConfComputeSettings", uintptr(unsafe.Pointer(set)))
	var e *wire.Error
	if errors.As(err, &e) && e.Code == wire.CodeLibrary {
		old := new(systemState)
		err = l.call("nvmlSystemGetConfComputeState", uintptr(unsafe.Pointer(old)))
		set.Environment, set.CC, set.DevTools = old.Environment, old.CC, old.DevTools
	}
	if err != nil {
		return err
	}
	// Anything but a clear off counts as on where on is the danger, and the
	// other way round.
	s.Environment, s.CC, s.DevTools, s.MultiGPU = int(set.Environment), set.CC == 1, set.DevTools != 0, int(set.MultiGPU)
	return nil
}

// each calls f for every GPU with its handle.
func (l *Library) each(f func(device uintptr, uuid string) error) error {
	n := new(uint32)
	if err := l.call("nvmlDeviceGetCount_v2", uintptr(unsafe.Pointer(n))); err != nil {
		return err
	}
	if *n > wire.MaxDevices {
		return fmt.Errorf("counting GPUs: %d, at most %d", *n, wire.MaxDevices)
	}
	for i := range *n {
		device := new(uintptr)
		if err := l.call("nvmlDeviceGetHandleByIndex_v2", uintptr(i), uintptr(unsafe.Pointer(device))); err != nil {
			return err
		}
		uuid, err := l.text("nvmlDeviceGetUUID", *device)
		if err != nil {
			return err
		}
		if err := f(*device, uuid); err != nil {
			return err
		}
	}
	return nil
}

// Collect returns the evidence of every GPU for a nonce.
func (l *Library) Collect(nonce [32]byte) ([]wire.Device, error) {
	var out []wire.Device
	err := l.each(func(device uintptr, uuid string) error {
		cert := new(certificate)
		if err := l.call("nvmlDeviceGetConfComputeGpuCertificate", device, uintptr(unsafe.Pointer(cert))); err != nil {
			return err
		}
		if int(cert.AttestationChainSize) > len(cert.AttestationChain) {
			return fmt.Errorf("reading certificates: %d bytes in a buffer of %d", cert.AttestationChainSize, len(cert.AttestationChain))
		}
		chain, err := Certificates(cert.AttestationChain[:cert.AttestationChainSize])
		if err != nil {
			return err
		}
		r := &report{Nonce: nonce}
		if err := l.call("nvmlDeviceGetConfComputeGpuAttestationReport", device, uintptr(unsafe.Pointer(r))); err != nil {
			return err
		}
		if int(r.Size) > len(r.Report) {
			return fmt.Errorf("reading report: %d bytes in a buffer of %d", r.Size, len(r.Report))
		}
		out = append(out, wire.Device{Kind: wire.KindGPU, UUID: uuid, Report: r.Report[:r.Size], Chain: chain})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// SetReady lets all GPUs take work. It takes the privilege to administer the
// machine.
func (l *Library) SetReady() error {
	return l.call("nvmlSystemSetConfComputeGpusReadyState", 1)
}

// Certificates splits a chain in PEM into certificates in DER, leaf first as
// they came.
func Certificates(text []byte) ([][]byte, error) {
	var out [][]byte
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" || len(out) == wire.MaxChain {
			return nil, fmt.Errorf("reading certificates: a block %.32q, or more than %d", block.Type, wire.MaxChain)
		}
		out, text = append(out, block.Bytes), rest
	}
	if len(out) == 0 {
		return nil, errors.New("reading certificates: none")
	}
	return out, nil
}
