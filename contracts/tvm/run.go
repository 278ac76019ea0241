package tvm

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strconv"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/internal/fault"
)

// Limits of one call.
const (
	// DefaultGetGas is what public lite-servers grant a get method.
	DefaultGetGas = 1_000_000
	// MaxGetGas bounds a get method (some 5 s of work).
	MaxGetGas = 10_000_000
	// MaxInput bounds each serialised input cell tree, in bytes.
	MaxInput = 8 << 20
)

// EmulateRequest is one ordinary transaction to execute.
type EmulateRequest struct {
	// Account is the ShardAccount before (TL-B account_descr); AccountNone
	// for an account that does not exist.
	Account *cell.Cell
	// Message is the inbound message, internal or external.
	Message *cell.Cell
	// Config is the root of the config dictionary (hashmap 32 ^Cell).
	Config *cell.Cell
	// Libs is the root of the libraries dictionary, or nil.
	Libs *cell.Cell
	// Now is the block's Unix time; it must not lie before the account's last
	// storage payment.
	Now uint32
	// LT is the transaction's logical time.
	LT uint64
	// RandSeed is the block's random seed.
	RandSeed [32]byte
}

// EmulateResult is an executed transaction.
type EmulateResult struct {
	Transaction *cell.Cell // the Transaction
	Account     *cell.Cell // the new ShardAccount
	Actions     *cell.Cell // the action list (c5), or nil
	VMLog       string
}

// NotAcceptedError says that the account refused the message without a
// transaction: an external message that was not accepted, or an account or
// message that the executor cannot work on.
type NotAcceptedError struct {
	Reason   string
	ExitCode int // of the TVM; meaningful where the code ran
	VMLog    string
}

// Error gives the executor's reason and the exit code.
func (e *NotAcceptedError) Error() string {
	return fmt.Sprintf("message not accepted: %s (exit code %d)", e.Reason, e.ExitCode)
}

// AccountNone returns the ShardAccount of an account that does not exist.
func AccountNone() *cell.Cell {
	return cell.BeginCell().
		MustStoreRef(cell.BeginCell().MustStoreUInt(0, 1).EndCell()).
		MustStoreSlice(make([]byte, 32), 256).
		MustStoreUInt(0, 64).
		EndCell()
}

// Emulate executes one transaction. A message that the account does not accept
// is a *NotAcceptedError inside a fault (ton.tvm.not_accepted); any other error
// means that the emulator itself failed.
func (e *Engine) Emulate(ctx context.Context, r EmulateRequest) (*EmulateResult, error) {
	if r.Account == nil || r.Message == nil || r.Config == nil {
		return nil, errors.New("emulating a transaction: account, message and config are required")
	}
	params, err := json.Marshal(struct {
		Now      uint32 `json:"utime"`
		LT       string `json:"lt"`
		RandSeed string `json:"rand_seed"`
		NoCheck  bool   `json:"ignore_chksig"`
		Debug    bool   `json:"debug_enabled"`
	}{r.Now, strconv.FormatUint(r.LT, 10), hex.EncodeToString(r.RandSeed[:]), false, false})
	if err != nil {
		return nil, fmt.Errorf("encoding the emulator's parameters: %w", err)
	}
	account, err1 := encodeInput("account", r.Account)
	message, err2 := encodeInput("message", r.Message)
	config, err3 := encodeInput("config", r.Config)
	libs, err4 := encodeInput("libraries", r.Libs)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	var answer []byte
	err = e.withInstance(ctx, func(in *instance) (err error) {
		ctx := context.WithValue(context.WithoutCancel(ctx), instanceKey{}, in)
		if err = in.useConfig(ctx, r.Config.Hash(), config); err != nil {
			return err
		}
		answer, err = in.exchange(ctx, exportEmulate, []uint64{uint64(in.emulator)}, libs, account, message, string(params))
		return err
	})
	if err != nil {
		return nil, err
	}
	return decodeEmulation(answer)
}

// useConfig makes the instance's emulator object use this config.
func (in *instance) useConfig(ctx context.Context, hash []byte, config string) error {
	if in.emulator != 0 && in.emulatorConfig == [32]byte(hash) {
		return nil
	}
	if in.emulator != 0 {
		if _, err := in.call(ctx, exportDestroyEmulator, uint64(in.emulator)); err != nil {
			return err
		}
		in.emulator = 0
	}
	ptr, err := in.newCString(ctx, config)
	if err != nil {
		return err
	}
	const quiet = 0
	em, err := in.call(ctx, exportCreateEmulator, uint64(ptr), quiet)
	if err != nil {
		return err
	}
	if uint32(em) == 0 {
		return errors.New("creating an emulator: the config was refused")
	}
	in.emulator, in.emulatorConfig = uint32(em), [32]byte(hash)
	_, err = in.call(ctx, exportFree, uint64(ptr))
	return err
}

// exchange calls an export that takes C strings after the leading arguments
// and returns one. An empty string becomes a null pointer only as the first
// one after a leading argument (the optional libraries).
func (in *instance) exchange(ctx context.Context, name string, args []uint64, strs ...string) ([]byte, error) {
	var owned []uint32
	for i, s := range strs {
		if s == "" && i == 0 && len(args) > 0 {
			args = append(args, 0)
			continue
		}
		ptr, err := in.newCString(ctx, s)
		if err != nil {
			return nil, err
		}
		owned = append(owned, ptr)
		args = append(args, uint64(ptr))
	}
	res, err := in.call(ctx, name, args...)
	if err != nil {
		return nil, err
	}
	out, err := in.cString(uint32(res))
	if err != nil {
		return nil, err
	}
	for _, ptr := range append(owned, uint32(res)) {
		if _, err := in.call(ctx, exportFree, uint64(ptr)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// answer is what both calls return, as JSON.
type answer struct {
	Fail    bool   `json:"fail"`
	Message string `json:"message"`
	Output  struct {
		Success     bool   `json:"success"`
		Error       string `json:"error"`
		Transaction string `json:"transaction"`
		Account     string `json:"shard_account"`
		Actions     string `json:"actions"`
		VMLog       string `json:"vm_log"`
		ExitCode    int    `json:"vm_exit_code"`
		Stack       string `json:"stack"`
		GasUsed     string `json:"gas_used"`
	} `json:"output"`
}

func decodeAnswer(b []byte) (*answer, error) {
	var a answer
	if err := json.Unmarshal(b, &a); err != nil {
		return nil, fmt.Errorf("decoding the emulator's answer: %w", err)
	}
	if a.Fail {
		return nil, fault.New(fault.ExitParse, "ton.tvm.bad_input", "", "running the emulator: %s", a.Message)
	}
	return &a, nil
}

func decodeEmulation(b []byte) (*EmulateResult, error) {
	a, err := decodeAnswer(b)
	if err != nil {
		return nil, err
	}
	if !a.Output.Success {
		return nil, fault.New(fault.ExitRefused, "ton.tvm.not_accepted", "", "emulating a transaction: %w",
			&NotAcceptedError{Reason: a.Output.Error, ExitCode: a.Output.ExitCode, VMLog: a.Output.VMLog})
	}
	res := &EmulateResult{VMLog: a.Output.VMLog}
	var err1, err2, err3 error
	res.Transaction, err1 = decodeOutput("transaction", a.Output.Transaction)
	res.Account, err2 = decodeOutput("account", a.Output.Account)
	if a.Output.Actions != "" {
		res.Actions, err3 = decodeOutput("actions", a.Output.Actions)
	}
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	return res, nil
}

// GetRequest is one get method to run.
type GetRequest struct {
	Code, Data *cell.Cell
	Config     *cell.Cell // root of the config dictionary
	Libs       *cell.Cell // root of the libraries dictionary, or nil
	Address    *address.Address
	Balance    *big.Int // nanoton; nil means 0
	Now        uint32
	RandSeed   [32]byte
	Method     string
	// Args in the order of the method's parameters: nil, integers, *big.Int,
	// *cell.Cell, *cell.Slice, []any (a tuple).
	Args []any
	// Gas is the limit; 0 means DefaultGetGas, more than MaxGetGas is an error.
	Gas uint64
}

// GetResult is a get method's answer.
type GetResult struct {
	ExitCode int
	GasUsed  uint64
	// Stack holds the results in the order of the method's declaration:
	// *big.Int, *cell.Cell, *cell.Slice, []any or nil each.
	Stack []any
	VMLog string
	// StackCell is the stack as serialised by the TVM (TL-B VmStack).
	StackCell *cell.Cell
}

// RunGetMethod runs a get method. Exit codes other than 0 and 1 are not errors
// here: the caller reads ExitCode.
func (e *Engine) RunGetMethod(ctx context.Context, r GetRequest) (*GetResult, error) {
	if r.Method == "" {
		return nil, errors.New("running a get method: no method named")
	}
	return e.RunGetMethodID(ctx, r, tlb.MethodNameHash(r.Method))
}

// RunGetMethodID is RunGetMethod by method id; r.Method is not read.
func (e *Engine) RunGetMethodID(ctx context.Context, r GetRequest, method uint64) (*GetResult, error) {
	stack := tlb.NewStack()
	for i := len(r.Args) - 1; i >= 0; i-- {
		stack.Push(r.Args[i])
	}
	c, err := stack.ToCell()
	if err != nil {
		return nil, fmt.Errorf("encoding the arguments of a get method: %w", err)
	}
	return e.runGet(ctx, r, method, c)
}

// RunGetMethodStack is RunGetMethodID with an already serialised VmStack.
func (e *Engine) RunGetMethodStack(ctx context.Context, r GetRequest, method uint64, stack *cell.Cell) (*GetResult, error) {
	if stack == nil {
		stack = cell.BeginCell().MustStoreUInt(0, 24).EndCell()
	}
	return e.runGet(ctx, r, method, stack)
}

func (e *Engine) runGet(ctx context.Context, r GetRequest, method uint64, stack *cell.Cell) (*GetResult, error) {
	if r.Code == nil || r.Data == nil || r.Config == nil || r.Address == nil {
		return nil, errors.New("running a get method: code, data, config and address are required")
	}
	gas := r.Gas
	if gas == 0 {
		gas = DefaultGetGas
	}
	if gas > MaxGetGas {
		return nil, fmt.Errorf("running a get method: gas limit %d is over %d", gas, uint64(MaxGetGas))
	}
	balance := r.Balance
	if balance == nil {
		balance = new(big.Int)
	}
	code, err1 := encodeInput("code", r.Code)
	data, err2 := encodeInput("data", r.Data)
	config, err3 := encodeInput("config", r.Config)
	libs, err4 := encodeInput("libraries", r.Libs)
	args, err5 := encodeInput("stack", stack)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return nil, err
	}
	params, err := json.Marshal(struct {
		Code      string `json:"code"`
		Data      string `json:"data"`
		Verbosity int    `json:"verbosity"`
		Libs      string `json:"libs"`
		Address   string `json:"address"`
		Now       uint32 `json:"unixtime"`
		Balance   string `json:"balance"`
		RandSeed  string `json:"rand_seed"`
		Gas       string `json:"gas_limit"`
		Method    uint64 `json:"method_id"`
		Debug     bool   `json:"debug_enabled"`
	}{code, data, 0, libs, r.Address.String(), r.Now, balance.String(), hex.EncodeToString(r.RandSeed[:]),
		strconv.FormatUint(gas, 10), method, false})
	if err != nil {
		return nil, fmt.Errorf("encoding the get method's parameters: %w", err)
	}
	var out []byte
	err = e.withInstance(ctx, func(in *instance) (err error) {
		ctx := context.WithValue(context.WithoutCancel(ctx), instanceKey{}, in)
		out, err = in.exchange(ctx, exportRunGetMethod, nil, string(params), args, config)
		return err
	})
	if err != nil {
		return nil, err
	}
	return decodeGet(out)
}

func decodeGet(b []byte) (*GetResult, error) {
	a, err := decodeAnswer(b)
	if err != nil {
		return nil, err
	}
	if !a.Output.Success {
		return nil, fault.New(fault.ExitRefused, "ton.tvm.bad_input", "", "running a get method: %s", a.Output.Error)
	}
	res := &GetResult{ExitCode: a.Output.ExitCode, VMLog: a.Output.VMLog}
	if res.GasUsed, err = strconv.ParseUint(a.Output.GasUsed, 10, 64); err != nil {
		return nil, fmt.Errorf("decoding the gas used: %w", err)
	}
	if res.StackCell, err = decodeOutput("stack", a.Output.Stack); err != nil {
		return nil, err
	}
	var stack tlb.Stack
	if err := stack.LoadFromCell(res.StackCell.BeginParse()); err != nil {
		return nil, fmt.Errorf("decoding the result stack: %w", err)
	}
	for stack.Depth() > 0 {
		v, err := stack.Pop()
		if err != nil {
			return nil, fmt.Errorf("decoding the result stack: %w", err)
		}
		res.Stack = append(res.Stack, v)
	}
	return res, nil
}

func encodeInput(what string, c *cell.Cell) (string, error) {
	if c == nil {
		return "", nil
	}
	boc := c.ToBOCWithFlags(false)
	if len(boc) > MaxInput {
		return "", fault.Mismatch(fault.ExitParse, "ton.tvm.too_large", "size of the "+what,
			fmt.Sprintf("at most %d bytes", MaxInput), fmt.Sprintf("%d bytes", len(boc)), "")
	}
	return base64.StdEncoding.EncodeToString(boc), nil
}

func decodeOutput(what, s string) (*cell.Cell, error) {
	boc, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("decoding the %s: %w", what, err)
	}
	c, err := cell.FromBOC(boc)
	if err != nil {
		return nil, fmt.Errorf("decoding the %s: %w", what, err)
	}
	return c, nil
}
