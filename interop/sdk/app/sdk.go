package main

import (
	"cosmossdk.io/log/v2"

	_ "github.com/cosmos/cosmos-sdk/x/upgrade"
	"github.com/cosmos/cosmos-sdk/x/upgrade/keeper"
	"github.com/cosmos/cosmos-sdk/x/upgrade/types"
)

// Names that have moved between versions of the SDK.
type (
	// Logger is the SDK's.
	Logger = log.Logger
	// UpgradeKeeper is x/upgrade's.
	UpgradeKeeper = keeper.Keeper
	// Plan is x/upgrade's.
	Plan = types.Plan
)

// NewNopLogger makes a logger that is silent.
var NewNopLogger = log.NewNopLogger
