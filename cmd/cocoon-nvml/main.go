// Command cocoon-nvml loads NVIDIA's libraries for the supervisor of a
// confidential VM: it reads one request from standard input, writes one answer
// to standard output (package enclave/gpu/wire) and ends. It has no flags.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"cocoon/enclave/gpu/nscq"
	"cocoon/enclave/gpu/nvml"
	"cocoon/enclave/gpu/wire"
)

func main() {
	if len(os.Args) != 1 {
		fmt.Fprintln(os.Stderr, "cocoon-nvml: this program takes a request on standard input and no arguments")
		os.Exit(1)
	}
	if err := run(os.Stdin, os.Stdout, libraries{nvml: nvml.Path, nscq: nscq.Path}); err != nil {
		fmt.Fprintf(os.Stderr, "cocoon-nvml: %v\n", err)
		os.Exit(1)
	}
}

// libraries are the paths of NVIDIA's.
type libraries struct{ nvml, nscq string }

// run answers one request. What the library refuses is an answer; an error is
// what cannot be answered.
func run(in io.Reader, out io.Writer, libs libraries) error {
	b, err := io.ReadAll(io.LimitReader(in, wire.MaxRequest+1))
	if err != nil {
		return fmt.Errorf("reading request: %w", err)
	}
	req, err := wire.ParseRequest(b)
	if err != nil {
		return err
	}
	reply := &wire.Reply{Version: wire.Version}
	if err := answer(req, reply, libs); err != nil {
		var e *wire.Error
		if !errors.As(err, &e) {
			e = &wire.Error{Code: wire.CodeOther, Call: req.Op, Text: err.Error()}
		}
		reply.Error, reply.State, reply.Devices = e, nil, nil
	}
	doc, err := wire.Marshal(reply)
	if err != nil {
		return fmt.Errorf("writing answer: %w", err)
	}
	if _, err := out.Write(doc); err != nil {
		return fmt.Errorf("writing answer: %w", err)
	}
	return nil
}

func answer(req *wire.Request, reply *wire.Reply, libs libraries) (err error) {
	lib, err := nvml.Open(libs.nvml)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lib.Close()) }()
	switch req.Op {
	case wire.OpState:
		reply.State, err = lib.State()
	case wire.OpCollect:
		nonce, nerr := req.NonceBytes()
		if nerr != nil {
			return nerr
		}
		if reply.Devices, err = lib.Collect(nonce); err == nil && req.Switches {
			var switches []wire.Device
			switches, err = nscq.Collect(libs.nscq, nonce)
			reply.Devices = append(reply.Devices, switches...)
		}
	case wire.OpReady:
		err = lib.SetReady()
	}
	return err
}
