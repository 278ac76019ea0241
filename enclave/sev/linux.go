package sev

import (
	"fmt"
	"os"

	"github.com/google/go-sev-guest/client/linuxabi"
	"golang.org/x/sys/unix"
)

// Device is the kernel's SNP guest device: messages to the firmware that the
// host carries and can neither read nor forge (AMD 56860, guest messages).
type Device interface {
	// Report returns the report (1184 bytes) over data, and the host's
	// certificate table, empty where it has none.
	Report(data [64]byte) (report, table []byte, err error)
	// Key returns a key derived from the chip's secret and the fields named.
	Key(KeyRequest) ([32]byte, error)
}

// keySelVCEK is KEY_SEL (bits 2:1 of ROOT_KEY_SELECT, AMD 56860 since 1.55): the
// root is the VCEK whatever the host has loaded. With 0 it would be the VLEK where
// there is one, which a cloud's chips share: a key of one machine would be a key of
// all. Firmware that does not know the field refuses it.
const keySelVCEK = 1 << 1

// KeyRequest is MSG_KEY_REQ (AMD 56860, table 19), its root key the VCEK.
type KeyRequest struct {
	Fields   Fields
	VMPL     uint32
	GuestSVN uint32
	TCB      uint64
}

// Fields select what is mixed into a key (GUEST_FIELD_SELECT).
type Fields uint64

// Fields.
const (
	FieldPolicy      Fields = 1 << 0
	FieldImageID     Fields = 1 << 1
	FieldFamilyID    Fields = 1 << 2
	FieldMeasurement Fields = 1 << 3
	FieldGuestSVN    Fields = 1 << 4
	FieldTCB         Fields = 1 << 5
)

// Linux is the running kernel's device. Path is that of the device.
type Linux struct{ Path string }

// maxTable is the certificate buffer: the kernel's own limit
// (SEV_FW_BLOB_MAX_SIZE).
const maxTable = 16 << 10

// Report asks with certificates first, and without them where the host's
// hypervisor does not offer that.
func (l Linux) Report(data [64]byte) (report, table []byte, err error) {
	table = make([]byte, maxTable)
	ext := linuxabi.SnpExtendedReportReq{Data: linuxabi.SnpReportReqABI{ReportData: data}, Certs: table, CertsLength: maxTable}
	var resp linuxabi.SnpReportRespABI
	if err = l.call(linuxabi.IocSnpGetExtendedReport, &ext, &resp); err != nil {
		table, resp = nil, linuxabi.SnpReportRespABI{}
		if err = l.call(linuxabi.IocSnpGetReport, &linuxabi.SnpReportReqABI{ReportData: data}, &resp); err != nil {
			return nil, nil, err
		}
	}
	if int(resp.ReportSize) > len(resp.Data) {
		return nil, nil, fmt.Errorf("SNP_GET_REPORT: report of %d bytes", resp.ReportSize)
	}
	return resp.Data[:resp.ReportSize], table, nil
}

// Key calls SNP_GET_DERIVED_KEY.
func (l Linux) Key(r KeyRequest) ([32]byte, error) {
	var resp linuxabi.SnpDerivedKeyRespABI
	err := l.call(linuxabi.IocSnpGetDerivedKey, r.message(), &resp)
	return resp.Data, err
}

func (r KeyRequest) message() *linuxabi.SnpDerivedKeyReqABI {
	return &linuxabi.SnpDerivedKeyReqABI{RootKeySelect: keySelVCEK,
		GuestFieldSelect: uint64(r.Fields), Vmpl: r.VMPL, GuestSVN: r.GuestSVN, TCBVersion: r.TCB}
}

// call passes one message to the firmware. The kernel itself waits where the
// host is busy.
func (l Linux) call(cmd uintptr, req, resp linuxabi.BinaryConvertible) error {
	f, err := os.OpenFile(l.Path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening SNP device: %w", err)
	}
	defer f.Close()
	msg := linuxabi.SnpUserGuestRequest{ReqData: req, RespData: resp}
	abi := msg.ABI()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), cmd, uintptr(abi.Pointer()))
	err = abi.Finish(&msg)
	if errno != 0 {
		return fmt.Errorf("asking the SNP firmware: %w, firmware and hypervisor error %#x", os.NewSyscallError("ioctl", errno), msg.FwErr)
	}
	if err != nil {
		return fmt.Errorf("asking the SNP firmware: %w", err)
	}
	return nil
}
