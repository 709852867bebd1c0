"""A Modbus TCP server (pymodbus) for demo and tests, with a control socket beside it.

Every unit id answers, with 1000 registers of each of the four tables, all 0 at the start but for input
register 0, which moves: up from 200 by 1 every 100 ms, and from 300 back to 200, as a boiler's
temperature in tenths of a degree would. The first `set` of it ends the movement.

The control socket (a UNIX socket, one request a line, one answer a line) goes round Modbus:

    get TABLE ADDRESS            the value
    set TABLE ADDRESS VALUE      ok
    writes                       how many requests to write came in by Modbus so far
    TABLE is holding, input, coil or discrete
"""

import argparse
import asyncio
import os

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

REGISTERS = 1000
ANY_UNIT = 0
# The function codes by which pymodbus knows a table.
TABLES = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}
# Those that write: coils, registers, one masked, some while others are read.
WRITES = {5, 6, 15, 16, 22, 23}


def device():
    def bits():
        return [SimData(0, count=REGISTERS, values=False, datatype=DataType.BITS)]

    def words():
        return [SimData(0, count=REGISTERS, values=0, datatype=DataType.REGISTERS)]

    return SimDevice(ANY_UNIT, simdata=(bits(), bits(), words(), words()))


class Control:
    """What can be read and set beside Modbus."""

    def __init__(self, context):
        self.context = context
        self.moving = True
        self.writes = 0

    def saw(self, sending, request):
        if not sending and request.function_code in WRITES:
            self.writes += 1
        return request

    async def get(self, table, address):
        return checked(await self.context.async_getValues(ANY_UNIT, TABLES[table], address, 1))

    async def set(self, table, address, value):
        value = bool(value) if table in ("coil", "discrete") else value
        checked(await self.context.async_setValues(ANY_UNIT, TABLES[table], address, [value]))

    async def move(self):
        value = 200
        while self.moving:
            await self.set("input", 0, value)
            value = 200 if value >= 300 else value + 1
            await asyncio.sleep(0.1)

    async def answer(self, line):
        match line.split():
            case ["get", table, address]:
                return str(int((await self.get(table, int(address)))[0]))
            case ["set", table, address, value]:
                if (table, int(address)) == ("input", 0):
                    self.moving = False
                await self.set(table, int(address), int(value))
                return "ok"
            case ["writes"]:
                return str(self.writes)
            case _:
                return "error: get TABLE ADDRESS, set TABLE ADDRESS VALUE, or writes"

    async def serve(self, reader, writer):
        async for line in reader:
            try:
                answer = await self.answer(line.decode())
            except (KeyError, ValueError) as error:
                answer = f"error: {error!r}"
            writer.write(f"{answer}\n".encode())
            await writer.drain()
        writer.close()


def checked(answer):
    if isinstance(answer, ExcCodes):
        raise ValueError(answer.name)
    return answer


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", default="127.0.0.1:502", help="address and port of Modbus TCP")
    parser.add_argument("--control", required=True, help="path of the control socket")
    options = parser.parse_args()

    host, port = options.listen.rsplit(":", 1)
    server = ModbusTcpServer(device(), address=(host, int(port)))
    control = Control(server.context)
    server.trace_pdu = control.saw
    if os.path.exists(options.control):
        os.unlink(options.control)
    await asyncio.start_unix_server(control.serve, options.control)
    await asyncio.gather(control.move(), server.serve_forever())


asyncio.run(main())
